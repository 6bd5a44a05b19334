"""compressed-tensors checkpoints for sgcore."""
