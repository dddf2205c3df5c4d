"""Alignment, tried on nano: what preferences and rewards gain on drawn scenes, beside controls that tell nothing."""
