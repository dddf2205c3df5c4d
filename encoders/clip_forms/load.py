"""A CLIP of any form as open_clip's model, with its preprocessing and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from encoders.clip_forms.source import ClipSource
from encoders.guarded import clip_model, clip_tokenizer
from encoders.hub import hub_fault, hub_file
from encoders.sizes import RefusedError


def load_clip(source: ClipSource) -> tuple[nn.Module, Any]:
    """The model, and what prepares its pictures: PIL RGB → [3, H, W].

    FileNotFoundError for weights that are missing and cannot be fetched, ValueError for all that cannot be loaded.
    """
    if source.form == "open_clip":
        return _open_clip(source.place, source.pretrained)
    try:
        if source.form == "transformers":
            from encoders.clip_forms.hugging_face import transformers_model  # takes seconds, and few need it

            return transformers_model(source.place)
        from encoders.clip_forms.openai import openai_model

        return openai_model(source.place)
    except RefusedError as error:
        raise RefusedError(f"the CLIP {source.place!r} cannot be loaded: {error}") from error
    except OSError as error:
        raise FileNotFoundError(f"the CLIP {source.place!r} cannot be loaded: {error}") from error
    except Exception as error:  # of many types, for files that are damaged or of another kind
        raise ValueError(
            f"the CLIP {source.place!r} cannot be loaded ({type(error).__name__}): {error}. Its files are damaged, "
            "or of another kind"
        ) from error


def load_tokenizer_of(source: ClipSource, remedy: str) -> Callable[[list[str]], Tensor]:
    """Its tokenizer: list[str] → ids [N, L].

    ValueError, with the remedy, for one that needs code of its own; ImportError for one that needs other packages.
    """
    if source.form == "open_clip":
        return clip_tokenizer(source.place, remedy)
    if source.form == "openai":
        return clip_tokenizer("ViT-B-32", remedy)  # the same for all of OpenAI's
    from encoders.clip_forms.hugging_face import transformers_tokenizer

    try:
        return transformers_tokenizer(source.place, remedy)
    except RefusedError:
        raise
    except ImportError as error:  # in SigLIP's first version it is one of sentencepiece
        raise ImportError(
            f"the tokenizer of {source.place!r} needs packages that are not here: pip install sentencepiece protobuf"
        ) from error
    except OSError as error:
        raise FileNotFoundError(f"the tokenizer of {source.place!r} cannot be loaded: {error}") from error
    except Exception as error:  # of many types, for files that are no tokenizer's
        raise ValueError(
            f"the tokenizer of {source.place!r} cannot be loaded ({type(error).__name__}): {error}"
        ) from error


def _open_clip(name: str, pretrained: str | None) -> tuple[nn.Module, Any]:
    from open_clip.pretrained import get_pretrained_cfg

    # open_clip 3 builds, for example, "ViT-L-14" with GELU even for tags trained with QuickGELU, and only warns.
    tag = get_pretrained_cfg(name, pretrained) if pretrained else {}
    given = f"{name}/{pretrained}" if pretrained else name.removeprefix("local-dir:")
    try:
        if tag.get("hf_hub"):
            _fetched(tag["hf_hub"])
        return clip_model(name, pretrained, force_quick_gelu=tag.get("quick_gelu", False))
    except RefusedError:
        raise
    except Exception as error:
        if fault := hub_fault(given.removeprefix("hf-hub:"), error):
            raise FileNotFoundError(
                f"{fault}; or give a local file as 'ARCHITECTURE/path/to/file.safetensors', or a folder"
            ) from error
        if tag or name.startswith("hf-hub:"):
            raise FileNotFoundError(
                f"cannot get the weights of {given!r}: {error}. If they are not in the local cache, connect to the "
                "network; or give a local file as 'ARCHITECTURE/path/to/file.safetensors', or a folder"
            ) from error
        raise ValueError(
            f"cannot load CLIP weights from {given!r}: {error}. They must be tensors (.safetensors, or a .pt state "
            "dict) that fit the architecture; pickled code is not loaded. OpenAI's TorchScript archives are given by "
            "their path alone"
        ) from error


def _fetched(place: str) -> None:
    """Has the hub give the weights of a tag, "owner/name/FILE" or "owner/name/", where open_clip will look for them.

    FileNotFoundError where the hub cannot be reached, which open_clip would try again and again.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, file = place.rpartition("/")
    pickled = file not in ("", HF_WEIGHTS_NAME) and file.endswith((".bin", ".pth"))  # first it looks for a safe one
    hub_file(repository, f"{file[:-4]}.safetensors" if pickled else file or HF_SAFE_WEIGHTS_NAME)
