"""Frozen encoders: media in, token features out. Import the submodules: `encoders.media`, `encoders.clip`."""
