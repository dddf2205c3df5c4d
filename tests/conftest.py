"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# Read when huggingface_hub is imported: no test may depend on the network, and stderr belongs to what is tested.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Draws and threads of a test are the same whatever ran before it: upstream's own code sets threads."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The paired sets: the environment's MMLM_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("MMLM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}: set MMLM_DATA to the folder of the paired sets")
    return folder


@pytest.fixture(scope="session")
def nano_folder() -> Path:
    """The weights that come with the package."""
    from mmlm.assembly.load import PRESETS

    folder = PRESETS["nano"]
    assert (folder / "model.safetensors").is_file(), f"{folder} has no weights: rebuild them with recipes/nano"
    return folder


@pytest.fixture(scope="module")
def nano(nano_folder):
    import mmlm

    return mmlm.load("nano")


@pytest.fixture(scope="module")
def server(nano):
    """A server of nano, with its `url` and `port`."""
    from support.serving import serving

    with serving({"nano": lambda: nano}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    """OpenAI's client of the server."""
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def loaded(nano, monkeypatch):
    """How often a model was loaded; nano itself is loaded once for all tests."""
    count = []
    monkeypatch.setattr("mmlm.assembly.load.load", lambda *arguments, **keywords: count.append(arguments) or nano)
    return count
