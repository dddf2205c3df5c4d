"""The weights of a folder or hub id, looked at before a loader opens them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoders.hub import hub_file
from encoders.model_files import read_json
from encoders.pickles import check_pickle
from encoders.settings import leads_out
from encoders.sizes import WEIGHTS, RefusedError, check_deflation, weight_files, weights_folder

FILES = {  # library → its files of weights: tensors alone, and pickled ones, which are taken where there are no others
    "transformers": ("model.safetensors", "pytorch_model.bin"),
    "diffusers": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "peft": ("adapter_model.safetensors", "adapter_model.bin"),
}


def look_at_weights(source: str | Path, subfolder: str = "", library: str | None = None) -> None:
    """`RefusedError` for an index that names other files than weights beside it, and for pickles beyond belief.

    library: whose pickled files are fetched first for a hub id that has no others; None for those in the cache alone.
    """
    if library is not None and not Path(source).exists():
        _fetch_pickles(str(source), subfolder, *FILES[library])
    folder = weights_folder(source, subfolder)
    for index in folder.glob("*.index*.json") if folder is not None else ():
        for shard in _shards(index):
            if leads_out(shard) or Path(shard).suffix not in WEIGHTS or Path(shard).name != shard or ":" in shard:
                raise RefusedError(
                    f"{index} names the shard {shard!r}, which is no file of its folder, or none of weights"
                )
            if (index.parent / shard).exists() and not (index.parent / shard).is_file():
                raise RefusedError(f"{index} names the shard {shard!r}, which is no file")
    for file in weight_files(source, subfolder) or ():
        if file.suffix != ".safetensors":
            check_deflation(file)
            check_pickle(file)


def _fetch_pickles(source: str, subfolder: str, safe: str, pickled: str) -> None:
    """Where the hub cannot be reached, or does not give them, the loader will tell."""

    def fetched(name: str) -> Path | None:
        return hub_file(source, f"{subfolder}/{name}" if subfolder else name)

    try:
        if not (fetched(safe) or fetched(f"{safe}.index.json") or fetched(pickled)):
            for shard in _shards(fetched(f"{pickled}.index.json")):
                fetched(shard)
    except FileNotFoundError:
        return


def _shards(index: Path | None) -> Iterator[str]:
    """The names in an index of shards; none where there is no index, or one that the loader cannot read either."""
    try:
        names = None if index is None else read_json(index).get("weight_map")
    except ValueError:
        return
    if isinstance(names, dict):
        yield from sorted(set(map(str, names.values())))
