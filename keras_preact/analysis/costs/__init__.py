"""Multiply-adds, weights, activations, receptive fields and latencies of nets."""
