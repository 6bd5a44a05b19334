"""Any decoder-only architecture of transformers for sgcore."""
