"""OLMo 2 for sgcore."""
