"""GPTQ checkpoints for sgcore."""
