"""Decoders of media: `decoders.codecs` turns images and audio into discrete codes and back; `decoders.diffusion`
reconstructs finer media from the same codes. Nothing here imports `mmlm`."""
