"""Pictures of units, and the figures of the other analyses."""
