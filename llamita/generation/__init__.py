"""Token ids out of a model, one after another."""
