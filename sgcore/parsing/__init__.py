"""What a model wrote, taken apart: reasoning, content and tool calls, while the text still arrives."""
