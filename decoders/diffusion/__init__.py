"""The diffusion decoder: codes of a frozen codec → media with the detail that the codec's own decoder blurs.

`DiffusionDecoder` is the model, `canvas` what its network reads and writes, `schedule` its noise levels and sampling;
`save_decoder` and `load_decoder` keep it in a folder, without its codec. Importing this room imports diffusers.
"""

from decoders.diffusion.checkpoint import load_decoder, save_decoder
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig, corrupted

__all__ = ["DiffusionDecoder", "DiffusionDecoderConfig", "corrupted", "load_decoder", "save_decoder"]
