"""Many users of one model."""
