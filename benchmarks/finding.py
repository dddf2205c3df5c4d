"""What an index finds: drawn scenes by words, and texts by other words for the same, by several embedders.

    python benchmarks/finding.py [--scenes 100] [--captions DATA --language-model NAME]

Scenes are of layouts that nano never saw in training; each is looked for by a sentence of its own ("in the top left a
large red circle, ..."). Then the texts: captions in one wording are looked for by captions of the same scene in
another. "clip" is nano's text tower, "hidden" the mean of the language model's hidden states in its best layer,
centred, "words" bm25, "fused" what `Index.search` gives. With --captions, pairs of captions of one picture are asked of
another language model in the same way. Prints the share that is right among the first 1 and the first 5.
"""

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import mmlm
from mmlm.data import read_records
from mmlm.retrieval import ClipTexts, Index, Item, Named
from recipes.nano import scenes, wording

Ask = Callable[[str], list[str]]


def shares(ask: Ask, questions: list[str]) -> str:
    """The share of questions whose own item, which is named by its number, is the first, and is among the first 5."""
    found = [ask(question) for question in questions]
    return ", ".join(
        f"{sum(str(n) in names[:k] for n, names in enumerate(found)) / len(found):.1%} in the first {k}" for k in (1, 5)
    )


def asking(index: Index, by: tuple[str, ...]) -> Ask:
    """A search, as names."""
    return lambda question: [source.path for source in index.search(question, k=5, by=by)]  # pyright: ignore


@torch.no_grad()
def hidden_means(model: Any, texts: list[str]) -> list[torch.Tensor]:
    """Of each layer the means `[N, D]` of a language model's hidden states over a text, without its first token."""
    host, rows = model.language_model, []
    for text in texts:
        ids = torch.tensor([model.processor.encode([text]).input_ids], device=model.device)
        states = host.model(ids, output_hidden_states=True).hidden_states
        rows.append(torch.stack([state[0, 1:].float().mean(0).cpu() for state in states]))
    return list(torch.stack(rows).unbind(1))


def by_hidden_states(model: Any, texts: list[str], questions: list[str], folder: str) -> str:
    """The shares of the layer that has the most right, as a text embedder in an index."""
    layers, right = [], []
    for kept, asked in zip(hidden_means(model, texts), hidden_means(model, questions), strict=True):
        middle = kept.mean(0)
        layers.append((F.normalize(asked - middle, dim=-1), F.normalize(kept - middle, dim=-1)))
        near = (layers[-1][0] @ layers[-1][1].T).topk(5).indices
        right.append(int((near == torch.arange(len(texts))[:, None]).sum()))
    best = max(range(len(layers)), key=right.__getitem__)
    known = dict(zip([*questions, *texts], torch.cat(layers[best]), strict=True))
    embedder = Named(lambda some: torch.stack([known[text] for text in some]), "hidden")
    with Index(Path(folder) / "hidden.index", texts=embedder) as index:
        index.add_items(Item(str(n), "text", text) for n, text in enumerate(texts))
        alone, fused = (shares(asking(index, by), questions) for by in (("vectors",), ("words", "vectors")))
    return f"{alone}; fused with words {fused} (layer {best} of {len(layers) - 1})"


def texts_by_texts(title: str, model: Any, clip: Any, texts: list[str], questions: list[str]) -> None:
    """Prints how each embedder finds texts."""
    with tempfile.TemporaryDirectory() as folder:
        embedder = None if clip is None else ClipTexts(clip)
        with Index(Path(folder) / "a.index", texts=embedder) as index:
            index.add_items(Item(str(n), "text", text) for n, text in enumerate(texts))
            ways = {"words": ("words",)} | (
                {} if clip is None else {"clip": ("vectors",), "fused": ("words", "vectors")}
            )
            for name, by in ways.items():
                print(f"{title}, {name}: {shares(asking(index, by), questions)}", flush=True)
        print(f"{title}, hidden: {by_hidden_states(model, texts, questions, folder)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--captions", help="data with two captions of a picture or more")
    parser.add_argument("--language-model", help="whose hidden states are tried on them")
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    model, draw = mmlm.load("nano"), random.Random(args.seed)
    clip: Any = model.encoders["image"]
    shown = [scenes.sample_scene(draw, scenes.unseen_layout) for _ in range(args.scenes)]
    with tempfile.TemporaryDirectory() as folder, Index(Path(folder) / "a.index", model) as index:
        pictures = [scenes.draw(scene, draw) for scene in shown]
        index.add_items(Item(str(n), "image", picture) for n, picture in enumerate(pictures))
        words = [wording.listed(scene) for scene in shown]
        print(f"{args.scenes} scenes by words: {shares(asking(index, ('words', 'vectors')), words)}", flush=True)
        again = [scenes.draw(scene, draw) for scene in shown]
        found = [index.search(picture=picture, k=5) for picture in again]
        right = sum(sources[0].path == str(n) for n, sources in enumerate(found)) / len(found)
        print(f"{args.scenes} scenes by another drawing of the same: {right:.1%} in the first 1", flush=True)
    texts = [wording.placed_caption(scene, draw) for scene in shown]
    texts_by_texts(f"{args.scenes} captions", model, clip, texts, [wording.listed(scene) for scene in shown])
    if args.captions is not None:
        other = model if args.language_model is None else mmlm.assemble(args.language_model, clip)
        pairs = [record.captions[:2] for record in read_records(args.captions) if len(set(record.captions[:2])) == 2]
        questions, texts = map(list, zip(*pairs, strict=True))
        texts_by_texts(f"{len(texts)} captions of photographs", other, None, texts, questions)


if __name__ == "__main__":
    main()
