"""Questions with several answers, scored by how likely a model finds each of them."""
