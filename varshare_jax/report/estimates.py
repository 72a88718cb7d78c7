"""Numbers with their uncertainty: aggregates of a run, and a run compared with others."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from varshare_jax.report import statistics
from varshare_jax.report.sections import RETURN, Entry, Section
from varshare_jax.report.statistics import Statistic

_RESAMPLES = 2000


class Estimate(NamedTuple):
    """A statistic and its interval (95 % unless told), None where a single seed gives none."""

    value: np.ndarray
    interval: tuple[np.ndarray, np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The section's focus against one other run.

    `probability` is P(focus > other); `difference` is mean(focus) − mean(other) over the seeds
    that both have, None if there are none; `by_seed` is the same for each of those seeds.
    """

    other: Entry
    probability: Estimate
    difference: Estimate | None
    by_seed: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scale:
    """Scores [M] that count as 0 and as 1, and what that means in words."""

    low: np.ndarray
    high: np.ndarray
    meaning: str

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """[..., M] normalised."""
        return statistics.normalize(scores, self.low, self.high)


def estimate(statistic: Statistic, *scores: np.ndarray, confidence: float = 0.95,
             resamples: int = _RESAMPLES) -> Estimate:
    """A statistic of one or several methods' scores [S, M] with its stratified bootstrap.

    The generator is always the same, so that equal runs give equal reports.
    """
    interval = None
    if min(map(len, scores)) > 1:
        interval = statistics.bootstrap_interval(
            scores, statistic, confidence=confidence, resamples=resamples,
            rng=np.random.default_rng(0))
    return Estimate(statistic(*scores), interval)


def comparisons(section: Section) -> tuple[Comparison, ...]:
    """The focus against every other run that has scores, in the order of the report.

    Intervals of K comparisons hold all K with 95 % (Bonferroni: each has 1 − 0.05 / K).
    """
    if not section.scored:
        return ()
    focus = next(e for e in section.scored if e.label == section.focus)
    others = [other for other in section.scored if other is not focus]
    return tuple(_compare(focus, other, len(others)) for other in others)


def _compare(focus: Entry, other: Entry, count: int) -> Comparison:
    # The tails grow thinner with the count, and need as many more draws to be seen.
    effort: dict[str, Any] = {
        "confidence": 1 - 0.05 / count, "resamples": _RESAMPLES * count}
    probability = estimate(statistics.probability_of_improvement, focus.scores, other.scores,
                           **effort)
    seeds, ours, theirs = np.intersect1d(focus.run.seeds, other.run.seeds, return_indices=True)
    if not len(seeds):
        return Comparison(other, probability, None, np.empty(0))
    first, second = focus.scores[ours], other.scores[theirs]
    by_seed = (first - second).mean(axis=1)
    interval = None
    if len(seeds) > 1:
        interval = statistics.paired_interval(first, second, statistics.mean, **effort,
                                              rng=np.random.default_rng(0))
    return Comparison(other, probability, Estimate(by_seed.mean(), interval), by_seed)


def scale_of(section: Section) -> Scale | None:
    """How scores are normalised: by the suite's own range, else by the single-task oracle.

    None where neither is known: aggregates over unlike tasks would then mean little.
    """
    if section.measure != RETURN:
        ones = np.ones(len(section.task_names))
        return Scale(0 * ones, ones, "1 is success in every episode")
    if known := _score_range(section):
        return Scale(*known, "0 is the return of uniformly random actions, 1 the suite's target")
    if (scale := oracle_scale(section)) and (scale.high > scale.low).all():
        return scale
    return None


def oracle_scale(section: Section) -> Scale | None:
    """0 is the random policy where its return is known, 1 the mean of the single-task oracle.

    None without an oracle, or where returns are negative and nothing says what 0 should be.
    A task on which the oracle is no better than random has high ≤ low.
    """
    if not section.oracle:
        return None
    high = section.oracle.scores.mean(axis=0)
    if section.measure != RETURN:
        return Scale(0 * high, high, "0 is no success, 1 the single-task oracle's success rate")
    if known := _score_range(section):
        return Scale(known[0], high,
                     "0 is the return of uniformly random actions, 1 the single-task oracle's")
    if (high <= 0).any():
        return None
    return Scale(0 * high, high, "0 is a return of zero, 1 the single-task oracle's")


def _score_range(section: Section) -> tuple[np.ndarray, np.ndarray] | None:
    return next(_known_ranges(section), None)


def _known_ranges(section: Section) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for entry in section.entries:
        known = entry.run.score_range
        if known and all(bound.shape == (len(section.task_names),) for bound in known):
            yield known
