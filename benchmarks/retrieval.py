"""An index of 1,000, 10,000 and 100,000 items: time to build it, to open it and to ask it, its memory, and its recall.

    python benchmarks/retrieval.py [--sizes 1000 10000 100000] [--width 512] [--queries 50]

Items are notes of some 40 drawn words, and their vectors are drawn around 1,000 centres: nothing is embedded, so what
is timed is the index alone. Recall is that of the 10 nearest by numpy in float64. Where usearch or faiss can be
imported, their approximate graphs stand beside it, with the settings that they come with. Times are medians.
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmlm.retrieval import Index, Item, Named

K = 10


def drawn(size: int, width: int, seed: int) -> np.ndarray:
    """Vectors of unit length around 1,000 centres."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(1000, width))
    rows = centres[draw.integers(0, 1000, size)] + draw.normal(size=(size, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def notes(size: int, seed: int = 1) -> list[str]:
    """Texts whose words are as frequent as those of a language (Zipf), each text with a number of its own."""
    draw = np.random.default_rng(seed)
    words = draw.zipf(1.3, (size, 40)) % 50_000
    return [f"note {number} " + " ".join(f"w{word}" for word in row) for number, row in enumerate(words)]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was computed."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def median(run: Callable[[int], Any], times: int) -> float:
    """Seconds of the median call."""
    return statistics.median(timed(lambda number=number: run(number))[0] for number in range(times))


def recall(found: list[list[int]], exact: list[list[int]]) -> float:
    """The share of the nearest that were found."""
    return sum(len({*a} & {*b}) for a, b in zip(found, exact, strict=True)) / sum(map(len, exact))


def measure(size: int, width: int, queries: int) -> None:
    """Prints the figures of one size."""
    rows, texts = drawn(size, width, 2), notes(size)
    asked = drawn(queries, width, 3)
    exact = [np.argsort(-(rows.astype(np.float64) @ query))[:K].tolist() for query in asked]
    known = dict(zip(texts, rows, strict=True)) | {f"ask {n} w{n + 1}": row for n, row in enumerate(asked)}
    embedder = Named(lambda own: np.stack([known[text] for text in own]), "drawn")
    items = [Item(f"n{n}", "text", text, metadata={"tenth": n % 10}) for n, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.index"
        with Index(path, texts=embedder) as index:
            build = timed(lambda: index.add_items(items))[0]
        with Index(path, texts=embedder) as index:
            opened = timed(lambda: index.vectors("text"))[0]
            first = index.store.value("SELECT min(id) FROM pieces")
            both = median(lambda n: index.search(f"ask {n} w{n + 1}", k=K), queries)
            by_words = median(lambda n: index.search(f"ask {n} w{n + 1}", k=K, by=("words",)), queries)
            filtered = median(lambda n: index.search(f"ask {n} w{n + 1}", k=K, where={"tenth": 3}), queries)
            vectors = index.vectors("text")
            near = [[id - first for id in vectors.nearest(query, K)[0]] for query in asked]
            alone = median(lambda n: vectors.nearest(asked[n], K), queries)
        disk = os.path.getsize(path)
    plain = median(lambda n: np.argsort(-(rows @ asked[n]))[:K], queries)
    print(
        f"{size:>8,} items: built in {build:.1f} s, vectors read in {opened:.2f} s "
        f"({rows.nbytes / 1e6:.0f} MB in memory, {disk / 1e6:.0f} MB on disk)\n"
        f"          search {both * 1e3:.1f} ms, words alone {by_words * 1e3:.1f} ms, filtered {filtered * 1e3:.1f} ms\n"
        f"          vectors alone {alone * 1e3:.2f} ms, recall {recall(near, exact):.3f}; "
        f"numpy's argsort {plain * 1e3:.2f} ms",
        flush=True,
    )
    for name, (made, find) in {"usearch": usearch(rows), "faiss HNSW": faiss(rows)}.items():
        if made is not None:
            once = median(lambda n, find=find: find(asked[n]), queries) * 1e3
            right = recall([find(query) for query in asked], exact)
            print(f"          {name}: built in {made:.1f} s, {once:.2f} ms, recall {right:.3f}", flush=True)


Graph = tuple[float | None, Callable[[np.ndarray], list[int]]]


def usearch(rows: np.ndarray) -> Graph:
    """Seconds to build usearch's graph, and how it is asked; None where it is not installed."""
    if importlib.util.find_spec("usearch") is None:
        return None, lambda query: []
    from usearch.index import Index as Graph  # pyright: ignore[reportMissingImports]

    graph = Graph(ndim=rows.shape[1], metric="ip", dtype="f32")
    seconds = timed(lambda: graph.add(np.arange(len(rows)), rows))[0]
    return seconds, lambda query: graph.search(query, K).keys.tolist()


def faiss(rows: np.ndarray) -> Graph:
    """The same of faiss."""
    if importlib.util.find_spec("faiss") is None:
        return None, lambda query: []
    import faiss as library  # pyright: ignore[reportMissingImports]

    graph = library.IndexHNSWFlat(rows.shape[1], 32, library.METRIC_INNER_PRODUCT)
    seconds = timed(lambda: graph.add(rows))[0]
    return seconds, lambda query: graph.search(query[None], K)[1][0].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=50)
    args = parser.parse_args()
    for size in args.sizes:
        measure(size, args.width, args.queries)


if __name__ == "__main__":
    main()
