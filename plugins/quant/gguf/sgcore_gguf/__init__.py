"""GGUF checkpoints for sgcore."""
