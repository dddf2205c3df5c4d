"""The guarded doors for media."""
