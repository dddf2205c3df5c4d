"""What a stream of a million records costs: memory, disk and time, beside the same records read at once.

    python benchmarks/streaming.py [--records 1000000] [--map-records 100000]

The shards are links to one tar of 10,000 pictures with captions: of each is read and kept as much as of its own shard.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

PER_SHARD = 10_000
STEPS, BATCH = 200, 256


def make(folder: Path, count: int) -> Path:
    """`count` shards; returns their pattern."""
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(picture, "JPEG")
    with tarfile.open(folder / "one", "w") as tar:
        for number in range(PER_SHARD):
            text = json.dumps({"caption": f"a red square, one of many, number {number}"}).encode()
            for suffix, data in (("jpg", picture.getvalue()), ("json", text)):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    for number in range(count):
        os.link(folder / "one", folder / f"{number:06d}.tar")
    return folder / "*.tar"


def resident() -> float:
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def index(pattern: str, folder: Path) -> dict[str, float]:
    """Figures of the first time."""
    from mmlm.data.streams import RecordStream, find_shards

    start = time.perf_counter()
    RecordStream([find_shards(pattern)], BATCH, folder=folder)
    return {
        "seconds to index": time.perf_counter() - start,
        "MB of indexes on disk": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
    }


def stream(pattern: str, folder: Path) -> dict[str, float]:
    """Figures of a stream whose indexes are there."""
    from mmlm.data.streams import RecordStream, find_shards

    before, start = resident(), time.perf_counter()
    found = RecordStream([find_shards(pattern)], BATCH, folder=folder)
    opening = time.perf_counter() - start
    opened = resident() - before
    start = time.perf_counter()
    count = sum(len(found.read(one).texts) for step in range(STEPS) for one in found.step(step))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    found.read(found.step(10**9)[0])
    return {
        "records": len(found),
        "seconds to open again": opening,
        "MB of memory, opened": opened,
        "MB of memory, reading": resident() - before,
        "records read a second": count / seconds,
        "seconds to resume at step 1,000,000,000": time.perf_counter() - start,
    }


def whole(pattern: str, _: Path) -> dict[str, float]:
    """Figures of the same records read at once."""
    from mmlm.data import read_records

    before, start = resident(), time.perf_counter()
    found = read_records(pattern)
    return {
        "records": len(found),
        "seconds to read": time.perf_counter() - start,
        "MB of memory": resident() - before,
    }


def main() -> None:
    """Prints both tables; each is measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--map-records", type=int, default=100_000)
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "PATTERN", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        kind, pattern, folder = args.measure
        figures = {"index": index, "stream": stream, "read": whole}[kind](pattern, Path(folder))
        for name, value in figures.items():
            print(f"| {name} | {value:,.0f} |" if value >= 100 else f"| {name} | {value:.2f} |")
        return
    for kinds, records in ((("index", "stream"), args.records), (("read",), args.map_records)):
        with tempfile.TemporaryDirectory() as folder:
            shards, kept = Path(folder) / "shards", Path(folder) / "index"
            shards.mkdir()
            kept.mkdir()
            pattern = make(shards, -(-records // PER_SHARD))
            print(f"\n| {'a stream' if 'stream' in kinds else 'read at once'} | |\n| --- | --- |", flush=True)
            for kind in kinds:
                subprocess.run([sys.executable, __file__, "--measure", kind, str(pattern), str(kept)], check=True)


if __name__ == "__main__":
    main()
