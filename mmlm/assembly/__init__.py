"""How a model is put together, kept and found."""
