"""Llama and Mistral for sgcore."""
