"""Models of other projects: their files, their language models, their prompts."""
