"""Codecs: media to discrete codes and back."""
