"""A job on a real cluster of Ray: two nodes on this machine, one of which may be lost."""

import json
import os
import tarfile
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'mmlm[ray]'")

from mmlm.cli import main  # noqa: E402 - after what it needs
from mmlm.jobs import Ranks  # noqa: E402
from mmlm.jobs.cluster import on_ray  # noqa: E402
from support.site import site  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, of which the second can be taken away."""
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        second = made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made, second
        ray.shutdown()
        made.shutdown()


def where(ranks: Ranks) -> tuple[int, int, str]:
    time.sleep(3)  # both are at work at once
    return ranks.rank, ranks.world, ray.get_runtime_context().get_node_id()


def test_each_node_has_a_rank(cluster):
    found = on_ray(where, cluster[0].address, gpus=False)
    assert [(rank, world) for rank, world, _ in found] == [(0, 2), (1, 2)]
    assert len({node for *_, node in found}) == 2


def test_without_the_devices_it_is_refused(cluster):
    with pytest.raises(RuntimeError, match="no node of the cluster .* has a GPU"):
        on_ray(where, cluster[0].address, gpus=True)


def test_tars_elsewhere_give_the_rows_of_those_here(cluster, tmp_path):
    pytest.importorskip("aiohttp", reason="needs aiohttp, by which fsspec reads https://")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for number in range(4):
            tar.add(ROOT / "docs/images/scene.png", f"{number}.png")
    more = ["--shard-size", "1", "--max-new-tokens", "4"]
    with site(tmp_path) as web:
        there = ["--data", web.url("t.tar"), "--output", str(tmp_path / "there"), "--ray", cluster[0].address]
        assert main(["caption", *there, *more]) == 0
    assert main(["caption", "--data", str(tmp_path / "t.tar"), "--output", str(tmp_path / "here"), *more]) == 0
    here, there = (
        [part.read_bytes() for part in sorted((tmp_path / name).glob("part-*"))] for name in ("here", "there")
    )
    assert len(here) == 4 and here == there


def test_pictures_are_captioned_on_both_nodes_and_one_may_be_lost(cluster, tmp_path):
    picture = ROOT / "docs/images/scene.png"
    (tmp_path / "m.jsonl").write_text((json.dumps({"image": str(picture)}) + "\n") * 12 + '{"image": "gone.png"}\n')
    made, second = cluster
    common = ["caption", "--data", str(tmp_path / "m.jsonl"), "--output"]

    def lose_one():
        while len(list((tmp_path / "run").glob("part-*"))) < 2:
            time.sleep(0.1)
        made.remove_node(second, allow_graceful=False)

    losing = threading.Thread(target=lose_one)
    losing.start()
    assert main([*common, str(tmp_path / "run"), "--shard-size", "1", "--ray", made.address]) == 1
    losing.join()
    assert main([*common, str(tmp_path / "alone")]) == 1
    found = [part.read_text() for part in sorted((tmp_path / "run").glob("part-*"))]
    assert len(found) == 13 and "".join(found) == (tmp_path / "alone/part-00000.jsonl").read_text()
