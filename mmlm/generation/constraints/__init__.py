"""What a row may write next."""
