"""The report's tables of single runs: aggregates, costs, tasks, layers, settings, versions."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from varshare_jax.report import statistics
from varshare_jax.report.estimates import Scale, estimate, scale_of
from varshare_jax.report.runs import Run
from varshare_jax.report.sections import RETURN, SUCCESS, Entry, Section
from varshare_jax.report.statistics import Statistic
from varshare_jax.report.table import (
    ABSENT,
    NBSP,
    Cell,
    Table,
    decimals,
    digits_of,
    fixed,
    percent,
    with_interval,
)

_PARAMETERS = {"active": "Active in training", "merged": "Active when merged",
               "stored": "Stored"}


def aggregates(section: Section) -> Table:
    """One row per run: aggregates over seeds and tasks with their intervals, the best strong."""
    digits = decimals(section)
    columns = {
        f"IQM [95{NBSP}%{NBSP}CI]": _estimates(section, statistics.interquartile_mean, digits),
        "Mean": _estimates(section, statistics.mean, digits),
        "Median": _estimates(section, statistics.median, digits)}
    if scale := scale_of(section):
        columns["Optimality gap"] = _estimates(section, statistics.optimality_gap, 3, scale)
    columns["Worst task"] = [_worst(entry, section, digits) for entry in section.entries]
    if other := _other_measure(section):
        columns[other.capitalize()] = [_mean(entry, other) for entry in section.entries]
    labels = [Cell(entry.label + entry.marks) for entry in section.entries]
    return Table(("Method", *columns), tuple(zip(labels, *columns.values(), strict=True)),
                 tuple(_notes(section)))


def other_evaluations(section: Section) -> Table | None:
    """Runs × other evaluations of them: mean return (and success); None where there are none."""
    known = list(dict.fromkeys(key for entry in section.entries for key in entry.run.others))
    if not known:
        return None

    def cell(run: Run, name: str, measure: str) -> Cell:
        scores = run.others.get((name, measure))
        if scores is None or np.isnan(scores).any():
            return Cell(ABSENT)
        digits = 3 if measure.endswith("success") else 1
        return Cell(with_interval(estimate(statistics.mean, scores), digits))

    rows = ((Cell(entry.label + entry.marks), *(cell(entry.run, *key) for key in known))
            for entry in section.entries)
    titles = (f"{name}: {measure.replace('_', ' ')}" for name, measure in known)
    return Table(("Method", *titles), tuple(rows))


def costs(section: Section) -> Table:
    """One row per run: sizes, steps, seconds. Absent is what its files do not tell."""
    kinds = [kind for kind in _PARAMETERS
             if any(entry.run.number("parameters", kind) for entry in section.entries)]
    sized = any(entry.run.widths for entry in section.entries)
    stepped = any("effective_step" in entry.run.last_metrics for entry in section.entries)
    rows = []
    for entry in section.entries:
        run, final = entry.run, entry.run.final
        texts = [*([run.widths or ABSENT] if sized else []),
                 *([_effective_step(run)] if stepped else []),
                 *(_count(run.number("parameters", kind)) for kind in kinds),
                 _count(final.env_steps if final else None),
                 _seconds(final.wall_seconds if final else None),
                 _seconds(run.number("compile_seconds")), _count(run.number("steps_per_second")),
                 str(run.num_seeds)]
        rows.append((Cell(entry.label + entry.marks), *map(Cell, texts)))
    return Table(("Method", *(["Widths"] if sized else []),
                  *(["Effective step"] if stepped else []),
                  *(_PARAMETERS[kind] for kind in kinds), f"Env{NBSP}steps",
                  f"Wall{NBSP}s", f"Compile{NBSP}s", "Steps/s", "Seeds"), tuple(rows))


def _effective_step(run: Run) -> str:
    step = run.effective_step
    return ABSENT if step is None else f"{100 * step:.2f}{NBSP}%"


def per_task(section: Section) -> Table:
    """Mean over seeds ± sample standard deviation of the score, the best of each task strong."""
    digits = decimals(section)
    rows = []
    for task, name in enumerate(section.task_names):
        means = [fixed(entry.scores[:, task].mean(), digits) for entry in section.scored]
        top = max(map(float, means)) if len(means) > 1 and section.marks_best else math.nan
        spreads = [f" ± {entry.scores[:, task].std(ddof=1):.{digits}f}"
                   if entry.run.num_seeds > 1 else "" for entry in section.scored]
        # Means that print alike share the mark.
        rows.append((Cell(name), *(Cell(mean + spread, strong=float(mean) == top)
                                   for mean, spread in zip(means, spreads, strict=True))))
    return Table(("Task", *(entry.label + entry.marks for entry in section.scored)),
                 tuple(rows))


def by_layer(metrics: Mapping[str, np.ndarray], prefix: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names [L] and values [M, L] of the metrics `prefix/<layer>` [S, M], means over seeds."""
    names = sorted((name for name in metrics if name.startswith(f"{prefix}/")), key=_natural)
    values = [mean_over_seeds(np.asarray(metrics[name], float)) for name in names]
    return (tuple(name.removeprefix(f"{prefix}/") for name in names),
            np.stack(values, axis=1) if values else np.empty((0, 0)))


def specialization(run: Run, prefix: str, task_names: Sequence[str]) -> Table | None:
    """Tasks × layers of the last logged `prefix/<layer>`, mean over seeds; None without any."""
    layers, values = by_layer(run.last_metrics, prefix)
    if not layers or len(task_names) != run.num_tasks:
        return None
    top = max(np.nanmax(values, initial=0.0), np.finfo(float).tiny)
    digits = digits_of(top)
    rows = []
    for name, row in zip(task_names, values, strict=True):
        cells = [Cell(ABSENT) if np.isnan(value) else
                 Cell(fixed(value, digits), shade=float(max(value, 0.0) / top)) for value in row]
        total = row.sum()
        rows.append((Cell(name), *cells,
                     Cell(ABSENT if np.isnan(total) else fixed(total, digits))))
    return Table(("Task", *layers, f"All{NBSP}layers"), tuple(rows))


def config_differences(section: Section) -> Table | None:
    """The config fields in which runs of a suite differ; None if they agree."""
    own = ("suite", "method", "run_dir")  # shown elsewhere, or different by nature
    configs = [{name: value for name, value in _flatten(entry.run.config) if name not in own}
               for entry in section.entries]
    names = list(dict.fromkeys(name for config in configs for name in config))
    fields = [(name, [config.get(name, ABSENT) for config in configs]) for name in names]
    rows = [(Cell(name), *map(Cell, values)) for name, values in fields if len(set(values)) > 1]
    return Table(("Field", *(entry.label for entry in section.entries)), tuple(rows)) \
        if rows else None


def environment(sections: Iterable[Section]) -> Table | None:
    """Versions and devices; runs of the same share a column. None before any run finished."""
    columns: dict[tuple[tuple[str, str], ...], list[str]] = {}
    sections = tuple(sections)
    for section in sections:
        for entry in section.entries:
            if summary := entry.run.summary:
                known = {"device": summary.get("device"), "versions": summary.get("versions")}
                title = entry.label if len(sections) == 1 else f"{section.suite}: {entry.label}"
                columns.setdefault(tuple(_flatten(known)), []).append(title)
    if not columns:
        return None
    trees = [dict(column) for column in columns]
    names = list(dict.fromkeys(name for tree in trees for name in tree))
    titles = ["all finished runs"] if len(columns) == 1 else [
        ", ".join(title) for title in columns.values()]
    return Table(("", *titles), tuple(
        (Cell(name), *(Cell(tree.get(name, ABSENT)) for tree in trees)) for name in names))


def _estimates(section: Section, statistic: Statistic, digits: int,
               scale: Scale | None = None) -> list[Cell]:
    """A cell for each entry; with a scale lower is better, as it measures what is missing."""
    found = {entry.label: estimate(statistic, scale(entry.scores) if scale else entry.scores)
             for entry in section.scored}
    printed = {label: fixed(result.value, digits) for label, result in found.items()}
    best = (min if scale else max)(printed.values(), key=float, default=None)
    marked = len(found) > 1 and section.marks_best
    # Values that print alike share the mark.
    return [Cell(with_interval(found[entry.label], digits),
                 marked and printed[entry.label] == best)
            if entry.label in found else Cell(ABSENT) for entry in section.entries]


def _worst(entry: Entry, section: Section, digits: int) -> Cell:
    if not entry.scores.size:
        return Cell(ABSENT)
    means = entry.scores.mean(axis=0)
    worst = int(np.argmin(means))
    return Cell(f"{fixed(means[worst], digits)} ({section.task_names[worst]})")


def _other_measure(section: Section) -> str | None:
    """What runs have been scored by besides the section's measure."""
    if section.measure == SUCCESS:
        return RETURN
    final = [entry.run.final for entry in section.entries if entry.run.final]
    return SUCCESS if any(evaluation.success is not None for evaluation in final) else None


def _mean(entry: Entry, measure: str) -> Cell:
    final = entry.run.final
    values = (final.success if measure == SUCCESS else final.returns) if final else None
    if values is None:
        return Cell(ABSENT)
    if measure == SUCCESS:
        return Cell(percent(np.nan_to_num(values, nan=0.0).mean()))
    return Cell(fixed(np.nanmean(values), digits_of(np.nanmax(np.abs(values)))))


def _count(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.1f}"


def _notes(section: Section) -> Iterable[str]:
    for entry in section.entries:
        if entry.status:
            yield f"{entry.label}: {entry.status}."
        if entry.replaced:
            yield (f"† {entry.label}: {entry.replaced} of {entry.scores.size} final returns are "
                   f"NaN (diverged); each counts as the lowest return of the run on its task, "
                   f"its success as 0.")
        if diverged := (entry.run.summary or {}).get("diverged"):
            yield f"{entry.label} diverged: {_diverged(diverged, section)}."
        if not entry.run.finished:
            total = entry.run.config.get("total_steps")
            goal = f" (to end at {total:,} env steps)" if isinstance(total, int) else ""
            scores = "" if entry.status else "; its scores are of the latest evaluation"
            yield f"‡ {entry.label}: not finished{goal}{scores}."
    if any(entry.run.num_seeds == 1 for entry in section.scored):
        yield "One seed gives no confidence interval."


def _diverged(rows: Sequence[Mapping[str, Any]], section: Section, shown: int = 6) -> str:
    def name(task: Any) -> str:
        known = isinstance(task, int) and 0 <= task < len(section.task_names)
        return section.task_names[task] if known else str(task)

    texts = [f"seed {row.get('seed')} on {name(row.get('task'))}" for row in rows[:shown]]
    return ", ".join(texts) + (f" and {len(rows) - shown} more" if len(rows) > shown else "")


def mean_over_seeds(values: np.ndarray) -> np.ndarray:
    """[S, ...] -> [...], over the seeds that are not NaN."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part)
            for part in re.split(r"(\d+)", name)]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            yield prefix + name, text
