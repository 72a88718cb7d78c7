"""Figures of a search: the best so far, and scores against each value that was tried."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from varshare_jax.report.drawing import look, style

_COMPLETE, _EARLY, _CHOSEN = style(0).color, "#9ca3af", style(1).color


class Tried(NamedTuple):
    """The trials of a search by number: scores [n], whether each was trained to its end [n], and
    the index of the chosen one, if there is one."""

    scores: np.ndarray
    complete: np.ndarray
    chosen: int | None


class Axis(NamedTuple):
    """A searched field: its values [n] as numbers, the ends of its range, labels of choices."""

    name: str
    values: np.ndarray
    ends: tuple[float, float] | None
    log: bool
    choices: tuple[str, ...] = ()


def history(tried: Tried, measure: str) -> Figure:
    """Scores by trial, those that ended early hollow, and the best complete one so far."""
    with look():
        figure = Figure(figsize=(6.6, 3.6), layout="constrained")
        axes = figure.subplots()
        numbers = np.arange(len(tried.scores))
        best = np.maximum.accumulate(np.where(tried.complete, tried.scores, -np.inf))
        axes.step(numbers, np.where(np.isfinite(best), best, np.nan), where="post",
                  color=_COMPLETE, label="best so far")
        _points(axes, numbers, tried)
        axes.set(xlabel="trial", ylabel=measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")
        return figure


def slice_of(tried: Tried, axis: Axis, measure: str) -> Figure:
    """Scores against the values of one field, which ends at the dotted lines."""
    with look():
        figure = Figure(figsize=(3.6, 2.7), layout="constrained")
        axes = figure.subplots()
        _points(axes, axis.values, tried)
        if axis.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        for end in axis.ends or ():
            axes.axvline(end, color=_EARLY, linestyle=":")
        if axis.choices:
            axes.set_xticks(range(len(axis.choices)), axis.choices)
            axes.margins(x=0.2)
        axes.set(xlabel=axis.name, ylabel=measure)
        return figure


def parallel(tried: Tried, axes_of: Sequence[Axis], measure: str) -> Figure:
    """A line for each complete trial through its place in every range, darker the better."""
    with look():
        figure = Figure(figsize=(1.9 * (len(axes_of) + 1) + 1, 3.6), layout="constrained")
        axes = figure.subplots()
        score = Axis(measure, tried.scores, None, False)
        heights = np.stack([_share(axis, tried.complete) for axis in (*axes_of, score)])
        ranks = np.argsort(np.argsort(np.where(tried.complete, tried.scores, -np.inf)))
        for index in np.flatnonzero(tried.complete):
            chosen = index == tried.chosen
            axes.plot(heights[:, index], color=_CHOSEN if chosen else _COMPLETE,
                      alpha=1.0 if chosen else 0.1 + 0.6 * (ranks[index] / len(ranks)) ** 2,
                      linewidth=2.6 if chosen else 1.2, zorder=3 if chosen else 2)
        labels = (*(axis.name.rpartition(".")[2] for axis in axes_of), measure)
        axes.set_xticks(range(len(labels)), labels)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
        axes.set_ylabel("place in its range")
        return figure


def _share(axis: Axis, complete: np.ndarray) -> np.ndarray:
    """Values [n] as shares of their range, or of what complete trials span."""
    scale = np.log if axis.log else np.asarray
    known = scale(axis.values[complete]) if axis.ends is None else scale(np.array(axis.ends))
    span = np.ptp(known) if known.size else 0.0
    return (scale(axis.values) - known.min(initial=np.inf)) / (span or 1.0)


def _points(axes: Axes, x: np.ndarray, tried: Tried) -> None:
    told = np.isfinite(tried.scores)
    early, complete = told & ~tried.complete, told & tried.complete
    axes.plot(x[complete], tried.scores[complete], "o", color=_COMPLETE, label="complete")
    axes.plot(x[early], tried.scores[early], "o", color=_EARLY, fillstyle="none",
              label="ended early, score then")
    if tried.chosen is not None:
        axes.plot(x[tried.chosen], tried.scores[tried.chosen], "*", color=_CHOSEN, markersize=13,
                  label="chosen")
