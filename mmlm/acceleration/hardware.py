"""Which dtypes the hardware multiplies natively, and which it only emulates."""

import os
import platform

import torch

from mmlm.acceleration.operators import answers

X86 = ("x86_64", "amd64", "i686")
# What oneDNN may be limited to, without instructions for bfloat16.
NO_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")


def multiplies(dtype: torch.dtype, device: torch.device | str = "cpu") -> bool:
    """Whether the hardware has instructions that multiply matrices of this dtype.

    Without them a library may still accept the dtype: it converts each number, which is slower than float32. oneDNN,
    for example, accepts bfloat16 on every processor with AVX-512, but few of these have instructions for it.
    """
    kind = torch.device(device).type
    if dtype == torch.float32:
        return True
    if kind == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    if dtype == torch.float16:
        return answers("mkldnn._is_mkldnn_fp16_supported")
    if not answers("mkldnn._is_mkldnn_bf16_supported"):
        return False
    if platform.machine().lower() not in X86:
        return True
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in NO_BFLOAT16
    return not limited and (answers("_is_avx512_bf16_supported") or answers("_is_amx_tile_supported"))
