"""Aggregate scores of many runs and their confidence intervals.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (arXiv 2108.13264). Scores are [..., S, M]: S seeds (independent runs) of each of M
tasks; a statistic reduces the last two axes and maps over the leading ones.

No statistic guesses what a missing score is worth: NaN and infinities raise ValueError.
"""

from collections.abc import Callable

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""Scores [..., S, M] -> aggregates [...]."""


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all S·M scores: [..., S, M] -> [...].

    The 25 % trimmed mean; of n scores the ⌊n/4⌋ lowest and the ⌊n/4⌋ highest are left out.
    """
    scores = _checked(scores)
    pooled = scores.reshape(*scores.shape[:-2], -1)
    count = pooled.shape[-1]
    cut = count // 4
    ordered = np.partition(pooled, (cut, count - cut - 1), axis=-1)
    return ordered[..., cut:count - cut].mean(axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over seeds and tasks: [..., S, M] -> [...]."""
    return _checked(scores).mean(axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """Median over tasks of the mean over seeds: [..., S, M] -> [...]."""
    return np.median(_checked(scores).mean(axis=-2), axis=-1)


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> np.ndarray:
    """Mean amount by which scores miss `target`: [..., S, M] -> [...], lower is better.

    Scores above the target count as the target, so excess on one task offsets no other.
    """
    return np.maximum(target - _checked(scores), 0.0).mean(axis=(-2, -1))


def bootstrap_interval(scores: np.ndarray, statistic: Statistic, *, confidence: float = 0.95,
                       resamples: int = 2000, rng: np.random.Generator) -> tuple[float, float]:
    """Stratified percentile bootstrap of a statistic: scores [S, M] -> (low, high).

    Each resample draws S runs with replacement independently for every task; tasks are not
    resampled. With S = 1 the interval is a point, which says nothing about uncertainty.
    """
    scores = _checked(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [S, M], not of shape {scores.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must lie in (0, 1)")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: must be at least 1")
    seeds, tasks = scores.shape
    drawn = rng.integers(seeds, size=(resamples, seeds, tasks))
    low, high = np.quantile(statistic(scores[drawn, np.arange(tasks)]),
                            ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    if scores.ndim < 2 or scores.size == 0:
        raise ValueError(f"scores must be a filled [..., S, M], not of shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity; decide first what a diverged run scores")
    return scores
