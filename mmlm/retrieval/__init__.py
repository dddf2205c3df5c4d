"""Retrieval: records that are similar to what a prompt holds.

`Rices` finds the pictures most similar to a given one by their CLIP embeddings, and makes few-shot prompts of them.
"""

from mmlm.retrieval.rices import Rices

__all__ = ["Rices"]
