"""The CPU platform for sgcore."""
