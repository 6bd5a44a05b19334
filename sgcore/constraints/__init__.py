"""Structured output: constraints are compiled off the loop, masks filled beside the forward pass."""
