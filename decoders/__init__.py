"""Media out: codecs between media and discrete codes, and the diffusion decoder."""
