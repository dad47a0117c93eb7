"""Token ids to logits. Shapes: B batch, T seq, D n_embd, H heads, K kv heads, E head_dim, V vocab_size."""
