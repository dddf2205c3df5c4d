"""Media out: discrete codes to images and sound. The codecs arrive with image and audio output."""
