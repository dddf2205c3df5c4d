"""Published codecs behind `MediaCodec`: diffusers' and transformers' own, LlamaGen's and taming-transformers'."""

from decoders.codecs.pretrained.loading import load_pretrained

__all__ = ["load_pretrained"]
