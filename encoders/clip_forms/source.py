"""Where a CLIP lies, and in which form: told by the name, then by the files of the folder or hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from encoders.hub import HUB_ID, hub_file, split_revision

SCHEMAS = ("local-dir:", "hf-hub:")
SETTINGS = "open_clip_config.json"
SMALL = (".json", ".txt", ".model")  # suffixes of settings and tokenizers


@dataclass(frozen=True)
class ClipSource:
    """A CLIP that was found.

    form: whose layout it has. place: an open_clip name ("ViT-B-32", "local-dir:…", "hf-hub:…"), a folder or hub id of
    transformers, or a file of OpenAI's. pretrained: tag or file of an architecture that open_clip knows by name.
    """

    form: Literal["open_clip", "transformers", "openai"]
    place: str
    pretrained: str | None = None

    def folder(self) -> Path | None:
        """Its folder on this machine; None if it has a name or is a file."""
        place = Path(self.place.removeprefix("local-dir:"))
        return place if place.is_dir() else None

    def files(self) -> list[Path]:
        """The settings, tokenizer and weights of a CLIP of transformers, fetched once from the hub."""
        folder = self.folder()
        if folder is None:
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(self.place, allow_patterns=[f"*{suffix}" for suffix in SMALL]))
        weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
        return [*(file for file in sorted(folder.iterdir()) if file.suffix in SMALL), *weights]


def find_clip(name: str) -> ClipSource:
    """The CLIP that a name describes, see `ClipImageEncoder.load`.

    open_clip's settings come first, since its hub repositories hold transformers' beside them. FileNotFoundError or
    ValueError, with what is missing, for a name that leads to none.
    """
    if name.startswith(SCHEMAS):
        return ClipSource("open_clip", name)
    if Path(name).is_dir():
        if (Path(name) / SETTINGS).is_file():
            return ClipSource("open_clip", f"local-dir:{name}")
        if (Path(name) / "config.json").is_file():
            return ClipSource("transformers", name)
        raise FileNotFoundError(
            f"the folder {name!r} is no CLIP: it has neither open_clip_config.json nor transformers' config.json; a "
            "file in it is given as ARCHITECTURE/FILE, or, if it is OpenAI's, as FILE"
        )
    if Path(name).is_file():
        return ClipSource("openai", name)
    import open_clip

    architecture, _, pretrained = name.partition("/")
    if architecture in open_clip.list_models():
        return _published(architecture, pretrained)
    if not HUB_ID.fullmatch(name):
        raise ValueError(
            f"{name!r} is neither a file, a folder, a hub id nor ARCHITECTURE/TAG with an architecture that open_clip "
            "knows (open_clip.list_models() lists them; ViT-B-32, for example)"
        )
    if hub_file(name, SETTINGS):
        if split_revision(name)[1] is not None:
            raise ValueError(f"open_clip takes no revision: download {name!r} (`hf download`), and name its folder")
        return ClipSource("open_clip", f"hf-hub:{name}")
    if hub_file(name, "config.json"):
        return ClipSource("transformers", name)
    raise FileNotFoundError(
        f"{name!r} is no CLIP that can be found: open_clip knows no architecture {architecture!r}, there is no such "
        "folder, and of the hub's model neither open_clip_config.json nor config.json is there or in the local cache. "
        "If they are on the hub, connect to the network"
    )


def _published(architecture: str, pretrained: str) -> ClipSource:
    """An architecture of open_clip's with weights of its own, or of a file."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if not get_pretrained_cfg(architecture, pretrained) and not Path(pretrained).is_file():
        tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise FileNotFoundError(
            f"{pretrained!r} is neither a file nor a pretrained tag of {architecture}; its tags: {tags}"
        )
    return ClipSource("open_clip", architecture, pretrained)


def lasting_name(name: str, source: ClipSource) -> str:
    """The name of a source, its file or folder as an absolute path, so that it means the same in any working folder."""
    if source.pretrained and Path(source.pretrained).is_file():
        return f"{source.place}/{Path(source.pretrained).resolve()}"
    return str(Path(name).resolve()) if Path(name).exists() else name
