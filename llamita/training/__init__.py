"""A model, an optimizer and batches: the loop and what it needs."""
