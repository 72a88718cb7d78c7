"""What a finished run stores about the tasks' own parameters, for reports to draw.

Parameters of M tasks may be large; their inner products and histograms are not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.runs.files import write_json
from varshare_jax.types import Variables
from varshare_jax.variational import residuals
from varshare_jax.variational.gaussian import is_gaussian
from varshare_jax.variational.tree import layers

_BINS = 40


def write(folder: Path, network: MultiTaskNetwork, variables: Variables) -> None:
    """Writes similarity.json and posterior.json of final variables [S, ...].

    similarity.json has the cosines [S][M][M] between the tasks' own parameters, empty where they
    have none. posterior.json: `gram`, their inner products [S][M][M]; `residual`, whether the
    shared network is their origin; `sigma`, of each layer how many of its posteriors' standard
    deviations, those of all seeds and tasks, lie between `edges`.
    """
    seeds = jax.tree.leaves(variables)[0].shape[0]
    found = [network.task_vectors(_seed(variables, s)) for s in range(seeds)]
    vectors = [np.asarray(v, np.float64) for v in found if v.size]
    write_json(folder / "similarity.json",
               [np.round(cosine_similarity(v), 4) for v in vectors])
    write_json(folder / "posterior.json", {
        "gram": [_rounded(v @ v.T) for v in vectors],
        "residual": residuals.mirrors(_seed(variables, 0)),
        "sigma": {layer: _histogram(values)
                  for layer, values in _deviations(variables["task"])}})


def _seed(variables: Variables, s: int) -> Variables:
    """One at a time: all seeds together may be large."""
    return jax.tree.map(lambda x: x[s], variables)


def _deviations(task: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The standard deviations of each layer that has any."""
    for layer, leaves in layers(task, is_gaussian).items():
        random = [np.ravel(leaf.std) for leaf in leaves if is_gaussian(leaf)]
        values = np.concatenate(random or [np.empty(0)])
        values = values[np.isfinite(values)]
        if values.size:
            yield layer, values


def _histogram(values: np.ndarray) -> dict[str, np.ndarray]:
    """Counts between edges that are evenly spaced by their logarithm."""
    low, high = np.log10(values.min()), np.log10(values.max())
    pad = max(0.01, 0.02 * (high - low))
    edges = np.logspace(low - pad, high + pad, _BINS + 1)
    return {"edges": _rounded(edges), "counts": np.histogram(values, edges)[0]}


def _rounded(values: np.ndarray, digits: int = 6) -> np.ndarray:
    """To significant digits: full precision would triple the file."""
    return np.array([float(f"{x:.{digits - 1}e}") for x in values.flat]).reshape(values.shape)


def cosine_similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosine of the angle between every two of M vectors: [M, P] -> [M, M].

    NaN where one of the two has length zero: it points nowhere.
    """
    vectors = np.asarray(vectors, float)
    lengths = np.linalg.norm(vectors, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = vectors @ vectors.T / np.outer(lengths, lengths)
    return np.clip(cosines, -1.0, 1.0)
