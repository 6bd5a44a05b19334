"""8-bit float weights and inputs for sgcore."""
