"""Small networks of diffusers' and transformers' own classes, and what their own code makes of media and of codes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor, nn
from transformers import (
    DacConfig,
    DacModel,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    EncodecConfig,
    EncodecModel,
    JanusVQVAE,
    JanusVQVAEConfig,
    MimiConfig,
    MimiModel,
)


@dataclass(frozen=True)
class Upstream:
    """What upstream's code says of a network; codes [B, K, *grid], media as `MediaCodec` has them, not clamped."""

    make: Callable[[], nn.Module]
    codes: Callable[[Any, Tensor], Tensor]  # network, media → codes
    media: Callable[[Any, Tensor], Tensor]  # network, codes → media
    input: tuple[int, ...]  # a batch of media that is a whole number of steps


def spread(codebook: Tensor, scale: float = 1.0) -> None:
    """Entries far apart, where random networks would put out but a few of them."""
    codebook.data.copy_(torch.randn(codebook.shape, generator=torch.Generator().manual_seed(1)) * scale)


def vq_model(**options: Any) -> VQModel:
    torch.manual_seed(0)
    network = VQModel(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=8, num_vq_embeddings=40, norm_num_groups=16,
        **options,
    )  # fmt: skip
    spread(network.quantize.embedding.weight)
    network.quant_conv.weight.data *= 4
    network.decoder.conv_out.weight.data *= 0.5  # so that most pixels lie within the range
    return network.eval()


def amused() -> VQModel:
    """As aMUSEd's own config has it, but with codes of fewer dimensions than `latent_channels`."""
    network = vq_model(vq_embed_dim=4, lookup_from_codebook=True, mid_block_add_attention=False, force_upcast=True)
    network.decoder.conv_out.bias.data += 0.5
    return network


def vq_model_codes(network: VQModel, pixels: Tensor) -> Tensor:
    latents = network.encode(pixels).latents
    return network.quantize(latents)[2][2].view(len(pixels), 1, *latents.shape[2:])


def amused_media(network: VQModel, codes: Tensor) -> Tensor:
    shape = (len(codes), *codes.shape[2:], network.quantize.embedding.embedding_dim)
    return network.decode(codes[:, 0], force_not_quantize=True, shape=shape).sample


def ldm_media(network: VQModel, codes: Tensor) -> Tensor:
    shape = (len(codes), *codes.shape[2:], network.quantize.embedding.embedding_dim)
    latents = network.quantize.get_codebook_entry(codes.flatten(), shape)
    return network.decode(latents, force_not_quantize=True).sample / 2 + 0.5


def janus() -> JanusVQVAE:
    torch.manual_seed(0)
    network = JanusVQVAE(
        JanusVQVAEConfig(
            embed_dim=8, num_embeddings=40, latent_channels=16, base_channels=32, channel_multiplier=[1, 2],
            num_res_blocks=1, num_patches=6,
        )
    )  # fmt: skip
    spread(network.quantize.embedding.weight)
    return network.eval()


def janus_codes(network: JanusVQVAE, media: Tensor) -> Tensor:
    """As in deepseek-ai/Janus, janus/models/vq_model.py: both sides of unit length before the distance."""
    vectors = F.normalize(network.quant_conv(network.encoder(media * 2 - 1)).permute(0, 2, 3, 1), dim=-1)
    entries = F.normalize(network.quantize.embedding.weight, dim=-1)
    return (vectors[..., None, :] - entries).square().sum(-1).argmin(-1)[:, None]


def emu3() -> Emu3VQVAE:
    torch.manual_seed(0)
    network = Emu3VQVAE(
        Emu3VQVAEConfig(
            codebook_size=40, embed_dim=4, latent_channels=4, base_channels=32, channel_multiplier=[1, 2],
            num_res_blocks=1, attn_resolutions=[1], hidden_size=64,
        )
    )  # fmt: skip
    spread(network.quantize.embedding.weight)
    return network.eval()


def emu3_codes(network: Emu3VQVAE, media: Tensor) -> Tensor:
    sizes = torch.tensor([media.shape[2:]] * len(media))
    return torch.stack(list(network.encode(media * 2 - 1, image_sizes=sizes).image_tokens))[:, None]


def encodec() -> EncodecModel:
    torch.manual_seed(0)
    network = EncodecModel(
        EncodecConfig(
            hidden_size=16, num_filters=4, upsampling_ratios=[4, 2], codebook_size=64, sampling_rate=8000,
            num_lstm_layers=1, target_bandwidths=[6.0, 48.0, 60.0],
        )
    )  # fmt: skip
    for i, layer in enumerate(network.quantizer.layers):
        spread(layer.codebook.embed, 1 / (i + 1))
    for half, scale in ((network.encoder, 30), (network.decoder, 6)):  # loud enough to compare
        half.layers[-1].conv.parametrizations.weight.original0.data *= scale
    return network.eval()


def dac() -> DacModel:
    torch.manual_seed(0)
    network = DacModel(
        DacConfig(
            encoder_hidden_size=8, downsampling_ratios=[2, 4], decoder_hidden_size=16, n_codebooks=9,
            codebook_size=64, codebook_dim=4, sampling_rate=8000,
        )
    )  # fmt: skip
    network.decoder.conv2.weight.data *= 80  # loud enough to compare
    return network.eval()


def mimi() -> MimiModel:
    torch.manual_seed(0)
    network = MimiModel(
        MimiConfig(
            sampling_rate=8000, hidden_size=32, num_filters=4, upsampling_ratios=[4, 2], codebook_size=64,
            codebook_dim=16, num_quantizers=12, vector_quantization_hidden_dimension=16, upsample_groups=32,
            num_hidden_layers=1, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2,
        )
    )  # fmt: skip
    quantizer = network.quantizer
    for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        for i, layer in enumerate(part.layers):
            spread(layer.codebook.embed_sum, 0.3 / (i + 1))
    network.decoder.decoder_seanet.layers[-1].conv.weight.data *= 0.1  # so that most samples lie within the range
    return network.eval()


def network_of(name: str) -> nn.Module:
    """A new network, the same each time."""
    return UPSTREAM[name].make()


PICTURES, SOUND = (2, 3, 16, 24), (2, 1, 800)
UPSTREAM = {
    "amused": Upstream(
        amused,
        vq_model_codes, amused_media, PICTURES,
    ),
    "ldm": Upstream(vq_model, lambda network, media: vq_model_codes(network, media * 2 - 1), ldm_media, PICTURES),
    "movq": Upstream(
        lambda: vq_model(norm_type="spatial"),
        lambda network, media: vq_model_codes(network, media * 2 - 1), ldm_media, PICTURES,
    ),
    "janus": Upstream(
        janus, janus_codes, lambda network, codes: network.decode(codes.flatten(1)) / 2 + 0.5, (2, 3, 12, 12)
    ),
    "emu3": Upstream(emu3, emu3_codes, lambda network, codes: network.decode(codes[:, 0]) / 2 + 0.5, PICTURES),
    "encodec": Upstream(
        encodec,
        lambda network, media: network.encode(media, bandwidth=48.0).audio_codes[0],
        lambda network, codes: network.decode(codes[None], [None]).audio_values, SOUND,
    ),
    "dac": Upstream(
        dac,
        lambda network, media: network.encode(media, n_quantizers=8).audio_codes,
        lambda network, codes: network.decode(audio_codes=codes).audio_values.unsqueeze(1), SOUND,
    ),
    "mimi": Upstream(
        mimi,
        lambda network, media: network.encode(media, num_quantizers=8).audio_codes,
        lambda network, codes: network.decode(codes).audio_values, SOUND,
    ),
}  # fmt: skip
