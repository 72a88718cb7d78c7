"""The report's tables as plain data, and their rendering as aligned text."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from varshare_jax import statistics
from varshare_jax.report.runs import Run
from varshare_jax.report.sections import Entry, Section

ABSENT = "–"
_NBSP = "\N{NO-BREAK SPACE}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell: `strong` marks the best of its group, `shade` in [0, 1] is for heatmaps."""

    text: str
    strong: bool = False
    shade: float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells, the first of which names its row; `notes` are the footnotes."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def headline(section: Section) -> Table:
    """One row per run: aggregates over seeds and tasks, parameters and cost."""
    digits = _decimals(section)
    with_success = any(entry.success is not None for entry in section.entries)
    best = max((float(statistics.interquartile_mean(entry.returns))
                for entry in section.scored), default=math.nan)
    rows = []
    for entry in section.entries:
        success = [Cell(_mean_success(entry))] if with_success else []
        rows.append((Cell(entry.label + _marks(entry)), *_aggregates(entry, section, digits, best),
                     *success, *_costs(entry.run)))
    columns = ("Method", f"IQM [95{_NBSP}%{_NBSP}CI]", "Mean", "Worst task",
               *(["Success"] if with_success else []), "Parameters active / stored",
               f"Env{_NBSP}steps", f"Wall{_NBSP}s", f"Compile{_NBSP}s", "Steps/s", "Seeds")
    return Table(columns, tuple(rows), tuple(_notes(section)))


def per_task(section: Section) -> Table:
    """Mean over seeds ± sample standard deviation of the return, the best of each task strong."""
    digits = _decimals(section)
    rows = []
    for task, name in enumerate(section.task_names):
        means = [_fixed(entry.returns[:, task].mean(), digits) for entry in section.scored]
        top = max(map(float, means)) if len(means) > 1 else math.nan
        spreads = [f" ± {entry.returns[:, task].std(ddof=1):.{digits}f}"
                   if entry.run.num_seeds > 1 else "" for entry in section.scored]
        # Means that print alike share the mark.
        rows.append((Cell(name), *(Cell(mean + spread, strong=float(mean) == top)
                                   for mean, spread in zip(means, spreads, strict=True))))
    return Table(("Task", *(entry.label + _marks(entry) for entry in section.scored)),
                 tuple(rows))


def specialization(run: Run, prefix: str, task_names: Sequence[str]) -> Table | None:
    """Tasks × layers of the last logged `prefix/<layer>`, mean over seeds; None without any."""
    layers = sorted((name for name in run.last_metrics if name.startswith(f"{prefix}/")),
                    key=_natural)
    if not layers or len(task_names) != run.num_tasks:
        return None
    values = np.stack([_mean_over_seeds(run.last_metrics[layer]) for layer in layers], axis=1)
    top = max(np.nanmax(values, initial=0.0), np.finfo(float).tiny)
    digits = _digits(top)
    rows = []
    for name, row in zip(task_names, values, strict=True):
        cells = [Cell(ABSENT) if np.isnan(value) else
                 Cell(_fixed(value, digits), shade=float(max(value, 0.0) / top)) for value in row]
        total = row.sum()
        rows.append((Cell(name), *cells,
                     Cell(ABSENT if np.isnan(total) else _fixed(total, digits))))
    names = (layer.removeprefix(f"{prefix}/") for layer in layers)
    return Table(("Task", *names, f"All{_NBSP}layers"), tuple(rows))


def config_differences(section: Section) -> Table | None:
    """The config fields in which runs of a suite differ; None if they agree."""
    own = ("suite", "method", "run_dir")  # shown elsewhere, or different by nature
    configs = [{name: value for name, value in _flatten(entry.run.config) if name not in own}
               for entry in section.entries]
    names = list(dict.fromkeys(name for config in configs for name in config))
    rows = [(name, [config.get(name, ABSENT) for config in configs]) for name in names]
    rows = [(Cell(name), *map(Cell, values)) for name, values in rows if len(set(values)) > 1]
    return Table(("Field", *(entry.label for entry in section.entries)), tuple(rows)) \
        if rows else None


def environment(sections: Iterable[Section]) -> Table | None:
    """Versions and devices; runs of the same share a column. None before any run finished."""
    columns: dict[tuple[tuple[str, str], ...], list[str]] = {}
    sections = tuple(sections)
    for section in sections:
        for entry in section.entries:
            if entry.run.finished:
                known = {"device": entry.run.summary.get("device"),
                         "versions": entry.run.summary.get("versions")}
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


def to_text(table: Table) -> str:
    """Columns aligned, names to the left and the rest to the right; footnotes below."""
    lines = [table.columns, *(tuple(cell.text for cell in row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("─" * width for width in widths))
    text = ["  ".join([line[0].ljust(widths[0]),
                       *(cell.rjust(width)
                         for cell, width in zip(line[1:], widths[1:], strict=True))]).rstrip()
            for line in lines]
    return "\n".join([*text, *table.notes]).replace(_NBSP, " ")


def _aggregates(entry: Entry, section: Section, digits: int, best: float) -> list[Cell]:
    if entry.returns is None:
        return [Cell(entry.status), Cell(ABSENT), Cell(ABSENT)]
    iqm = float(statistics.interquartile_mean(entry.returns))
    text = _fixed(iqm, digits)
    if entry.run.num_seeds > 1:
        low, high = statistics.bootstrap_interval(
            entry.returns, statistics.interquartile_mean, rng=np.random.default_rng(0))
        text += f" [{_fixed(low, digits)}, {_fixed(high, digits)}]"
    means = entry.returns.mean(axis=0)
    worst = int(means.argmin())
    strong = len(section.scored) > 1 and _fixed(iqm, digits) == _fixed(best, digits)
    return [Cell(text, strong), Cell(_fixed(means.mean(), digits)),
            Cell(f"{_fixed(means[worst], digits)} ({section.task_names[worst]})")]


def _mean_success(entry: Entry) -> str:
    return ABSENT if entry.success is None else f"{entry.success.mean():.1%}"


def _costs(run: Run) -> list[Cell]:
    def count(value: float | None) -> str:
        return ABSENT if value is None else f"{value:,.0f}"

    def seconds(value: float | None) -> str:
        return ABSENT if value is None else f"{value:,.1f}"

    final = run.final
    active, stored = run.number("parameters", "active"), run.number("parameters", "stored")
    texts = [f"{count(active)} / {count(stored)}" if active is not None else ABSENT,
             count(final.env_steps if final else None),
             seconds(final.wall_seconds if final else None),
             seconds(run.number("compile_seconds")), count(run.number("steps_per_second")),
             str(run.num_seeds)]
    return [Cell(text) for text in texts]


def _marks(entry: Entry) -> str:
    return ("†" if entry.replaced else "") + ("" if entry.run.finished else "‡")


def _notes(section: Section) -> Iterable[str]:
    for entry in section.entries:
        if entry.replaced:
            yield (f"† {entry.label}: {entry.replaced} of {entry.returns.size} final returns are "
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


def _decimals(section: Section) -> int:
    return _digits(max((float(np.abs(entry.returns).max()) for entry in section.scored),
                       default=0.0))


def _digits(largest: float) -> int:
    """Decimals that leave four significant digits to the largest number, at most three."""
    return 3 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def _fixed(value: float, digits: int) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def _mean_over_seeds(values: np.ndarray) -> np.ndarray:
    """[S, M] -> [M], over the seeds that are not NaN."""
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
