"""The formulas that references of several tests share: numpy in float64, every sum written out."""

import math

import numpy as np
import torch


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, heads: int) -> np.ndarray:
    """One query row after the other over all keys, head by head, scale 1/sqrt(d)."""
    size = queries.shape[1] // heads
    out = np.zeros((len(queries), heads * size))
    for head in range(heads):
        span = slice(head * size, (head + 1) * size)
        for row, query in enumerate(queries[:, span]):
            scores = np.array([query @ key for key in keys[:, span]]) / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            out[row, span] = (weights / weights.sum()) @ values[:, span]
    return out


def numpy_weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}
