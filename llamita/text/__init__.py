"""Raw text to batches of token ids."""
