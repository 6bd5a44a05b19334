"""Formats of tool calls and reasoning that several model families share."""
