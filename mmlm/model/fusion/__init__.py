"""How media reach the language model."""
