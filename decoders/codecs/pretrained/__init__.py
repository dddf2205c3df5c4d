"""Published codecs as `MediaCodec`: diffusers' VQModel, transformers' Janus, Emu3, EnCodec, DAC and Mimi, and the VQGAN
checkpoints of LlamaGen and taming-transformers. `load_pretrained` loads any of them."""

from decoders.codecs.pretrained.loading import load_pretrained

__all__ = ["load_pretrained"]
