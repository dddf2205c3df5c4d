"""Published codecs behind `MediaCodec`: diffusers' and transformers' own, LlamaGen's and taming-transformers'."""

from decoders.pretrained.loading import load_pretrained

__all__ = ["load_pretrained"]
