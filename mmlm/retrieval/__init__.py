"""Retrieval: what is looked up in texts, pictures and recordings of one's own, and put into a prompt.

`Index` is one file that grows: `store` keeps it, `items` and `adding` read what is put in, `chunks` cuts long texts,
`vectors` searches exactly and `searching` joins the rankings. A `Lookup` says how an index is asked for a question, and
makes what it finds fit; a `Recitation` asks the model itself. `Rices` finds the pictures most similar to a given one,
and makes few-shot prompts of them. Names are imported when first used.
"""

from typing import TYPE_CHECKING

from mmlm._lazy import lazy_names

if TYPE_CHECKING:
    from mmlm.prompting.sources import Citations, Source
    from mmlm.retrieval.adding import Added
    from mmlm.retrieval.chunks import Chunking
    from mmlm.retrieval.embedders import ClipTexts, Named, TextEmbedder
    from mmlm.retrieval.index import Index, Place
    from mmlm.retrieval.items import Item
    from mmlm.retrieval.lookup import Finder, Lookup
    from mmlm.retrieval.recitation import Recitation
    from mmlm.retrieval.rices import Rices

__all__ = [
    "Added",
    "Chunking",
    "Citations",
    "ClipTexts",
    "Finder",
    "Index",
    "Item",
    "Lookup",
    "Named",
    "Place",
    "Recitation",
    "Rices",
    "Source",
    "TextEmbedder",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Added": "mmlm.retrieval.adding",
        "Chunking": "mmlm.retrieval.chunks",
        "Citations": "mmlm.prompting.sources",
        "ClipTexts": "mmlm.retrieval.embedders",
        "Finder": "mmlm.retrieval.lookup",
        "Index": "mmlm.retrieval.index",
        "Item": "mmlm.retrieval.items",
        "Lookup": "mmlm.retrieval.lookup",
        "Named": "mmlm.retrieval.embedders",
        "Place": "mmlm.retrieval.index",
        "Recitation": "mmlm.retrieval.recitation",
        "Rices": "mmlm.retrieval.rices",
        "Source": "mmlm.prompting.sources",
        "TextEmbedder": "mmlm.retrieval.embedders",
    },
)
