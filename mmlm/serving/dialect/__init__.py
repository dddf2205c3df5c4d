"""OpenAI's dialect over HTTP: an endpoint a file, and what they share."""
