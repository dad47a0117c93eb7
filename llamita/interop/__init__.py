"""The way out of llamita, and in: models and tokenizers in the formats of others, without loss."""
