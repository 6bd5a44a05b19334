"""AWQ checkpoints for sgcore."""
