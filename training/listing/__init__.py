"""Listings: which images a set has, and of which classes, before any of them is read."""
