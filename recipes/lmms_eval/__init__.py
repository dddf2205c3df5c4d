"""nano judged by lmms-eval through the server."""
