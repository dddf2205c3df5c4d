"""How it gets fast."""
