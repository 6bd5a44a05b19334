"""HTTP: SGLang's native routes and OpenAI's, over one `Frontend`."""
