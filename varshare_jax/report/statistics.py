"""Aggregate scores of many runs, comparisons of two methods, and confidence intervals of both.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (arXiv 2108.13264). Scores are [..., S, M]: S seeds (independent runs) of each of M
tasks; a statistic reduces these two axes and maps over the leading ones.

No statistic guesses what a missing score is worth: NaN and infinities raise ValueError.
docs/statistics.md has the formulas and says what each interval covers.
"""

from collections.abc import Callable

import numpy as np

Statistic = Callable[..., np.ndarray]
"""Scores [..., S, M], of one method or of several -> aggregates [...] or [..., K]."""


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


def worst_tasks(scores: np.ndarray, count: int) -> np.ndarray:
    """Mean over the `count` tasks of the lowest mean over seeds: [..., S, M] -> [...].

    Raises ValueError unless 1 ≤ count ≤ M.
    """
    means = _checked(scores).mean(axis=-2)
    if not 1 <= count <= means.shape[-1]:
        raise ValueError(f"count={count}: must lie in 1 ... {means.shape[-1]}, the tasks")
    return np.partition(means, count - 1, axis=-1)[..., :count].mean(axis=-1)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Fraction of all S·M scores above each threshold [K]: [..., S, M] -> [..., K].

    The run-score distribution of Agarwal et al. 2021, section 4.2: the profile that lies
    higher is the better one, and where two cross neither method dominates.
    """
    scores = _checked(scores)
    # One threshold at a time: all at once would take K times the memory of the resamples.
    return np.stack([(scores > t).mean(axis=(-2, -1)) for t in np.ravel(thresholds)], axis=-1)


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P(a run of `first` beats one of `second`): [..., S, M], [..., R, M] -> [...].

    The Mann–Whitney statistic U / (S·R) of each task, ties counted half, averaged over tasks
    (Agarwal et al. 2021, section 4.3; Mann & Whitney 1947).
    """
    first, second = _same_tasks(first, second)
    ahead = first[..., :, None, :] - second[..., None, :, :]
    return (0.5 + 0.5 * np.sign(ahead)).mean(axis=(-3, -2, -1))


def normalize(scores: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Scores [..., S, M] on a scale where a task's `low` [M] is 0 and its `high` [M] is 1.

    Raises ValueError unless every `high` exceeds its `low`.
    """
    low, high = np.asarray(low, float), np.asarray(high, float)
    if not (high > low).all():
        raise ValueError(f"high={high} must exceed low={low} on every task")
    return (_checked(scores) - low) / (high - low)


def principal_coordinates(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [K, 2] whose distances come closest to those of K vectors with inner products [K, K].

    Also the share of the vectors' variance along either axis [2]. This is principal component
    analysis without the vectors (Gower 1966, "Some distance properties of latent root and vector
    methods used in multivariate analysis"). Each axis points to where its largest coordinate is.
    """
    products = np.asarray(products, float)
    count = len(products)
    centering = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(centering @ products @ centering)
    values, vectors = np.maximum(values[::-1][:2], 0.0), vectors[:, ::-1][:, :2]
    points = vectors * np.sqrt(values)
    signs = np.sign(points[np.abs(points).argmax(0), [0, 1]])
    total = np.trace(centering @ products @ centering)
    return points * np.where(signs == 0, 1.0, signs), values / max(total, np.finfo(float).tiny)


def bootstrap_interval(scores: np.ndarray | tuple[np.ndarray, ...], statistic: Statistic, *,
                       confidence: float = 0.95, resamples: int = 2000,
                       rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stratified percentile bootstrap of a statistic: scores [S, M] -> (low, high).

    Each resample draws S runs with replacement independently for every task; tasks are not
    resampled. A tuple of scores is drawn method by method and handed to `statistic` in that
    order. Bounds have the shape that `statistic` gives to one set of scores. With S = 1 the
    interval is a point, which says nothing about uncertainty.
    """
    def draw(values: np.ndarray) -> np.ndarray:
        seeds, tasks = values.shape
        return values[rng.integers(seeds, size=(resamples, seeds, tasks)), np.arange(tasks)]

    methods = _matrices(scores if isinstance(scores, tuple) else (scores,))
    _check_levels(confidence, resamples)
    return _percentiles(statistic(*map(draw, methods)), confidence)


def paired_interval(first: np.ndarray, second: np.ndarray, statistic: Statistic, *,
                    confidence: float = 0.95, resamples: int = 2000,
                    rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of statistic(first) − statistic(second), both [S, M] -> (low, high).

    Row s of both must come from the same seed. Each resample draws S whole seeds, the same for
    both methods and for all tasks: what a seed has in common on both sides cancels, and what
    the tasks of one jointly trained network have in common is kept (Efron & Tibshirani 1993,
    section 8.3: one resamples the units that are independent).
    """
    first, second = _matrices((first, second))
    if first.shape != second.shape:
        raise ValueError(f"paired scores must agree in shape, not {first.shape}, {second.shape}")
    _check_levels(confidence, resamples)
    drawn = rng.integers(len(first), size=(resamples, len(first)))
    return _percentiles(statistic(first[drawn]) - statistic(second[drawn]), confidence)


def _percentiles(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
    return low, high


def _check_levels(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must lie in (0, 1)")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: must be at least 1")


def _matrices(methods: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    checked = tuple(map(_checked, methods))
    for scores in checked:
        if scores.ndim != 2:
            raise ValueError(f"scores must be [S, M], not of shape {scores.shape}")
    return checked


def _same_tasks(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = _checked(first), _checked(second)
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"scores of {first.shape[-1]} and {second.shape[-1]} tasks: "
                         f"compare the same tasks")
    return first, second


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    if scores.ndim < 2 or scores.size == 0:
        raise ValueError(f"scores must be a filled [..., S, M], not of shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity; decide first what a diverged run scores")
    return scores
