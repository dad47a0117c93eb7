"""A run's figures while it trains, in trackers that were asked for: TensorBoard, Weights & Biases, trackio."""
