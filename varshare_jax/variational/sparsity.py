"""Dropping residuals that matter little, and keeping the rest sparsely.

The KL pulls unneeded means to zero, so after training those below a threshold are set to zero
and stored no longer: a task keeps its sparse difference from the shared network. By `magnitude`
the threshold is one on |μ|, by `snr` on |μ|/σ (Blundell et al. 2015, "Weight Uncertainty in
Neural Networks", arXiv 1505.05424, section 5.1).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.variational.gaussian import is_gaussian
from varshare_jax.variational.residuals import mean_of


class Sparse(NamedTuple):
    """The entries of vectors [R, P] that are not zero, row after row.

    `counts` [R]; `indices` into a row and `values`, one for each entry.
    """

    counts: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def importance(task: Any, rule: str) -> Any:
    """What the threshold is compared with: |μ| or |μ|/σ, leaves as those of the means."""
    def of(leaf):
        size = jnp.abs(mean_of(leaf))
        return size / leaf.std if rule == "snr" else size

    return jax.tree.map(of, task, is_leaf=is_gaussian)


def prune(task: Any, threshold: jax.Array | float, rule: str) -> Any:
    """The residuals' means, those of an importance below `threshold` set to zero."""
    means = jax.tree.map(mean_of, task, is_leaf=is_gaussian)
    return jax.tree.map(lambda mean, score: jnp.where(score < threshold, 0.0, mean),
                        means, importance(task, rule))


def kept(residuals: Any) -> jax.Array:
    """Share of the entries that are not zero; leaves [M, ...] -> [M]."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(residuals)]
    return jnp.concatenate(leaves, axis=1).astype(bool).mean(1)


def stored_bytes(count: int, size: int) -> int:
    """Bytes of `count` entries of a vector of `size`: a value and the narrowest index of each."""
    return count * (np.dtype(np.float32).itemsize + _index_type(size).itemsize)


def to_sparse(rows: np.ndarray) -> Sparse:
    """Vectors [R, P] without their zeros."""
    where, indices = np.nonzero(rows)
    return Sparse(np.bincount(where, minlength=len(rows)).astype(np.int64),
                  indices.astype(_index_type(rows.shape[1])), rows[where, indices])


def from_sparse(sparse: Sparse, size: int) -> np.ndarray:
    """Inverse of `to_sparse`: vectors [R, P = size]."""
    rows = np.zeros((len(sparse.counts), size), sparse.values.dtype)
    rows[np.repeat(np.arange(len(rows)), sparse.counts), sparse.indices] = sparse.values
    return rows


def _index_type(size: int) -> np.dtype:
    return np.min_scalar_type(max(size - 1, 0))
