"""How tokens are written."""
