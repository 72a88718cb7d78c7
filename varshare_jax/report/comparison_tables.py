"""The report's tables that set runs against one another."""

import numpy as np

from varshare_jax.report import statistics
from varshare_jax.report.estimates import Comparison, Estimate, Scale, estimate, oracle_scale
from varshare_jax.report.sections import Entry, Section
from varshare_jax.report.table import (
    ABSENT,
    NBSP,
    Cell,
    Table,
    decimals,
    fixed,
    percent,
    with_interval,
)


def against_each(section: Section, compared: tuple[Comparison, ...]) -> Table:
    """One row per other run; strong where the interval excludes that the two are equal.

    Nothing is strong where the section has too few seeds to mark the best.
    """
    digits = decimals(section)
    rows = []
    for comparison in compared:
        probability, difference = comparison.probability, comparison.difference
        cells = [Cell(with_interval(probability, 2),
                      section.marks_best and _excludes(probability.interval, 0.5))]
        if difference is None:
            cells += [Cell("no seed in common"), Cell(ABSENT)]
        else:
            ahead = int((comparison.by_seed > 0).sum())
            cells += [Cell(with_interval(difference, digits),
                           section.marks_best and _excludes(difference.interval, 0.0)),
                      Cell(f"{ahead} of {len(comparison.by_seed)}")]
        rows.append((Cell(comparison.other.label + comparison.other.marks), *cells))
    interval = f"[95{NBSP}%{NBSP}CI]"
    return Table((f"{section.focus} against", f"P({section.focus} better) {interval}",
                  f"Paired difference of the mean {interval}", "Seeds ahead"), tuple(rows))


def worst_tasks(section: Section) -> Table:
    """The mean of each run's k worst tasks, and which they are."""
    digits, tasks = decimals(section), len(section.task_names)
    counts = sorted({1, -(-tasks // 4), -(-tasks // 2)})
    rows = []
    for entry in section.scored:
        found = [estimate(lambda scores, k=k: statistics.worst_tasks(scores, k), entry.scores)
                 for k in counts]
        order = entry.scores.mean(axis=0).argsort(kind="stable")[:max(counts)]
        rows.append((Cell(entry.label + entry.marks),
                     *(Cell(with_interval(result, digits)) for result in found),
                     Cell(", ".join(section.task_names[m] for m in order))))
    titles = ("Worst task" if k == 1 else f"Mean of the {k} worst" for k in counts)
    return Table(("Method", *(f"{title} [95{NBSP}%{NBSP}CI]" for title in titles),
                  "From the worst"), tuple(rows))


def retention(section: Section) -> Table | None:
    """Tasks × runs: the share of the oracle's score that is kept, and its mean over tasks.

    None where no oracle or no zero of the scale is known, the oracle learned nothing, or there is
    nothing to compare.
    """
    scale = oracle_scale(section)
    others = [entry for entry in section.scored if entry is not section.oracle]
    if scale is None or not others:
        return None
    known = scale.high > scale.low
    if not known.any():
        return None
    kept = [_kept(entry, scale, known) for entry in others]
    means = np.stack([scores.mean(axis=0) for scores in kept], axis=1)
    shades = _shades(means)
    rows = [(Cell(name), *map(_share, means[m], shades[m]))
            for m, name in enumerate(section.task_names)]
    overall = [estimate(statistics.mean, scores[:, known]) for scores in kept]
    rows.append((Cell("Mean"), *(Cell(percent(result.value)) for result in overall)))
    rows.append((Cell(f"95{NBSP}%{NBSP}CI"), *(_bounds(result) for result in overall)))
    lost = [name for name, sound in zip(section.task_names, known, strict=True) if not sound]
    notes = (f"The oracle is no better than random on {', '.join(lost)}: nothing to keep.",)
    return Table(("Task", *(entry.label + entry.marks for entry in others)), tuple(rows),
                 notes if lost else ())


def _kept(entry: Entry, scale: Scale, known: np.ndarray) -> np.ndarray:
    """[S, M], NaN for tasks of which the oracle keeps nothing itself."""
    kept = np.full(entry.scores.shape, np.nan)
    kept[:, known] = statistics.normalize(entry.scores[:, known], scale.low[known],
                                          scale.high[known])
    return kept


def _shades(values: np.ndarray) -> np.ndarray:
    """From 0 for the lowest to 0.6 for the highest, dark enough to see and to read."""
    if not np.isfinite(values).any():
        return np.zeros_like(values)
    low, high = np.nanmin(values), np.nanmax(values)
    return 0.6 * (values - low) / max(high - low, np.finfo(float).tiny)


def _share(kept: float, shade: float) -> Cell:
    return Cell(ABSENT) if np.isnan(kept) else Cell(percent(kept), shade=float(shade))


def _bounds(result: Estimate) -> Cell:
    if result.interval is None:
        return Cell(ABSENT)
    return Cell("[" + ", ".join(fixed(100 * bound, 1) for bound in result.interval) + "]")


def _excludes(interval: tuple[np.ndarray, np.ndarray] | None, value: float) -> bool:
    return interval is not None and not bool(interval[0] <= value <= interval[1])
