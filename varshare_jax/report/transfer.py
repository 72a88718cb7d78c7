"""What tasks that a run had left out gain from what the others share, by regime of adaptation.

Measures of transfer after Taylor & Stone 2009, "Transfer Learning for Reinforcement Learning
Domains: A Survey", section 2.1: jump-start, area ratio, final value, steps to a threshold.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from varshare_jax.report import statistics
from varshare_jax.report.drawing import look, style_of, to_svg
from varshare_jax.report.estimates import estimate
from varshare_jax.report.markup import Heading, about, image, side_by_side, table
from varshare_jax.report.sections import Entry, Section
from varshare_jax.report.table import ABSENT, NBSP, Cell, Table, percent, with_interval
from varshare_jax.runs.files import read_json

_SHARES = 0.5, 0.9  # of the oracle, to be reached
_SCRATCH, _RESIDUAL = "scratch", "residual"


class Adapted(NamedTuple):
    """A regime's learning of the tasks named: `steps` [E] of one task, and scores [E, S, M] on a
    scale where random play is 0 and the oracle 1; both begin before anything is learned."""

    entry: Entry
    regime: str
    tasks: tuple[str, ...]
    steps: np.ndarray
    curve: np.ndarray


def content(section: Section) -> Iterator[str | Heading]:
    """The part of the page on adaptation; nothing where no run has adapted."""
    for method, of in families(section).items():
        scale, meaning = _scale(section, of)
        if not (scale[1] > scale[0]).any():
            continue
        runs = adapted(section, of, scale)
        yield Heading(3, f"Adaptation of {method} to tasks left out")
        yield about(f"Scores are normalised: 0 is {meaning[0]}, 1 {meaning[1]}. Jump-start: score "
                    "before learning, less that of scratch. Steps: of one task's environments, "
                    "until an evaluation first reaches a share of the oracle; median over folds × "
                    "seeds, and how many of these reach it. Area ratio: area under the curve over "
                    "scratch's, which 1 equals. In brackets: 95 % intervals over folds × seeds.")
        yield table(measures(runs))
        yield about("Final score of each fold, and steps to 90 % of the oracle over those of "
                    "scratch (medians over seeds).")
        yield table(folds(runs), "heat")
        if figure := nats_against_gain(runs):
            yield side_by_side([image(to_svg(figure), f"Nats against gain of {method}")],
                               "figures")


def families(section: Section) -> dict[str, dict[str, Entry]]:
    """Regime -> entry of each method that has adapted from scratch and otherwise."""
    found: dict[str, dict[str, Entry]] = {}
    for entry in section.scored:
        regime = (entry.run.config.get("adapt") or {}).get("regime", "")
        if regime and len(entry.steps):
            found.setdefault(entry.run.method, {}).setdefault(regime, entry)
    return {method: of for method, of in found.items() if _SCRATCH in of and len(of) > 1}


def adapted(section: Section, of: Mapping[str, Entry],
            scale: tuple[np.ndarray, np.ndarray]) -> list[Adapted]:
    """Learning of each regime on the tasks whose `scale` ([M], [M]) is one, scratch first."""
    low, high = scale
    known = high > low
    order = sorted(of, key=lambda regime: (regime != _SCRATCH, regime))
    names = tuple(name for name, kept in zip(section.task_names, known, strict=True) if kept)
    return [Adapted(entry, regime, names, entry.steps / len(section.task_names),
                    (entry.curve[..., known] - low[known]) / (high - low)[known])
            for regime in order for entry in [of[regime]]]


def _scale(section: Section, of: Mapping[str, Entry]):
    """Scores [M] that count as 0 and 1, and what they are in words."""
    known = of[_SCRATCH].run.score_range
    low = known[0] if known and section.measure == "return" else np.zeros(len(section.task_names))
    zero = "uniformly random actions" if low.any() else "a score of 0"
    if section.oracle and section.oracle not in of.values():
        return (low, section.oracle.scores.mean(0)), (zero, "the single-task oracle's last score")
    return (low, of[_SCRATCH].scores.mean(0)), (zero, "scratch's last score, as no oracle is here")


def steps_to(steps: np.ndarray, curve: np.ndarray, level: float) -> np.ndarray:
    """Steps [S, M] after which scores [E, S, M] first reach a level; infinite where never."""
    reached = curve >= level
    first = np.asarray(steps, float)[reached.argmax(0)]
    return np.where(reached.any(0), first, np.inf)


def area(steps: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Mean height [S, M] of curves [E, S, M] over their steps [E]."""
    return np.trapezoid(curve, steps, axis=0) / (steps[-1] - steps[0])


def area_ratio(ours: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """Areas [..., S, M] of both -> the ratio of their means [...]."""
    return statistics.mean(ours) / np.maximum(statistics.mean(scratch), np.finfo(float).tiny)


def measures(runs: list[Adapted]) -> Table:
    """One row per regime, scratch first."""
    scratch, rows = runs[0], []
    for run in runs:
        ratio = estimate(area_ratio, area(run.steps, run.curve), area(scratch.steps, scratch.curve))
        jump = estimate(lambda a, b: statistics.mean(a) - statistics.mean(b), run.curve[0],
                        scratch.curve[0])
        plain = run is scratch
        rows.append((Cell(run.regime), Cell(ABSENT if plain else with_interval(jump, 2)),
                     *(Cell(_median_steps(steps_to(run.steps, run.curve, share)))
                       for share in _SHARES),
                     Cell(ABSENT if plain else with_interval(ratio, 2)),
                     Cell(with_interval(estimate(statistics.mean, run.curve[-1]), 2)),
                     Cell(_nats(run)), Cell(_trained(run))))
    interval = f"[95{NBSP}%{NBSP}CI]"
    return Table(("Regime", f"Jump-start {interval}",
                  *(f"Steps to {share:.0%} of the oracle" for share in _SHARES),
                  f"Area ratio {interval}", f"Final {interval}", "Nats", "Parameters trained"),
                 tuple(rows), _notes(scratch))


def _median_steps(steps: np.ndarray) -> str:
    reached = np.isfinite(steps).mean()
    median = np.quantile(steps, 0.5, method="lower")
    return f"{'never' if np.isinf(median) else f'{median:,.0f}'} ({percent(reached)})"


def _nats(run: Adapted) -> str:
    spent = run.entry.run.last_metrics.get("kl")
    return ABSENT if spent is None else f"{np.nanmean(spent):,.0f}"


def _trained(run: Adapted) -> str:
    """The share of what a task's forward pass reads."""
    own, active = (run.entry.run.number("parameters", name) for name in ("offered", "active"))
    if run.regime != _RESIDUAL:
        return percent(1.0)
    return ABSENT if not own or not active else percent(own / active)


def _notes(scratch: Adapted) -> tuple[str, ...]:
    """How the tasks are played before anything is learned, where that was tried."""
    file = Path(scratch.entry.run.path).parent / "zero_shot.json"
    if not file.is_file():
        return ()
    found = read_json(file, {"shared": list, "task_names": [str]})
    shown = {"the shared parameters": found["shared"],
             "the best other task's own": found.get("best_other")}
    told = "; ".join(f"under {what} {np.nanmean(np.array(scores, float)):.4g}"
                     for what, scores in shown.items() if scores)
    return (f"Mean return before anything is learned: {told}.",)


def folds(runs: list[Adapted]) -> Table:
    """Tasks × regimes: final scores as shades, then steps to 90 % over scratch's."""
    rows = []
    finals = np.stack([run.curve[-1].mean(0) for run in runs], 1)
    low, high = finals.min(), finals.max()
    shades = 0.6 * (finals - low) / max(high - low, np.finfo(float).tiny)
    steps = [np.median(steps_to(run.steps, run.curve, _SHARES[1]), 0) for run in runs]
    for m, name in enumerate(runs[0].tasks):
        cells = [Cell(percent(x), shade=float(shade))
                 for x, shade in zip(finals[m], shades[m], strict=True)]
        rows.append((Cell(name), *cells, *(Cell(_ratio(each[m], steps[0][m]))
                                           for each in steps[1:])))
    regimes = [run.regime for run in runs]
    return Table(("Fold", *regimes, *(f"steps of {regime}" for regime in regimes[1:])),
                 tuple(rows))


def _ratio(ours: float, scratch: float) -> str:
    if np.isinf(ours):
        return "never"
    return "only here" if np.isinf(scratch) else f"{ours / max(scratch, 1.0):.2f}"


def nats_against_gain(runs: list[Adapted]) -> Figure | None:
    """A mark for each fold: the nats that its residual spent against the area it gained."""
    scratch = runs[0]
    drawn = [run for run in runs[1:] if "kl" in run.entry.run.last_metrics
             and run.entry.run.last_metrics["kl"].shape == run.curve.shape[1:]]
    if not drawn:
        return None
    with look():
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for run in drawn:
            gain = (area(run.steps, run.curve).mean(0)
                    - area(scratch.steps, scratch.curve).mean(0))
            style = style_of(run.entry)
            axes.plot(np.nanmean(run.entry.run.last_metrics["kl"], 0), gain, style.marker,
                      color=style.color, label=run.regime)
        axes.axhline(0.0, color="#6b7280", linewidth=1, linestyle="--", zorder=1)
        axes.set_xlabel("KL of the residual from its prior [nats]")
        axes.set_ylabel("area gained on scratch")
        axes.legend()
        return figure
