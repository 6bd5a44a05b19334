"""4-bit NormalFloat weights for sgcore."""
