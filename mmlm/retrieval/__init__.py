"""Finding what is like something."""
