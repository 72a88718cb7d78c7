"""The report's figures that set runs, or tasks, against one another."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from varshare_jax.report import statistics
from varshare_jax.report.drawing import look, style_of
from varshare_jax.report.estimates import Comparison, Estimate, estimate, scale_of
from varshare_jax.report.figures import legend_below
from varshare_jax.report.sections import Section
from varshare_jax.report.table import fixed

_THRESHOLDS, _RESAMPLES = 101, 1000
_NUMBERS_UP_TO = 12  # tasks; cells get too small for them beyond
_DARK_INK, _LIGHT_INK = "#111827", "#ffffff"


def performance_profiles(section: Section) -> Figure:
    """Fraction of seeds × tasks above each threshold, with pointwise 95 % bands."""
    scale = scale_of(section)
    scores = [scale(entry.scores) if scale else entry.scores for entry in section.scored]
    low, high = min(x.min() for x in scores), max(x.max() for x in scores)
    thresholds = np.linspace(low - 0.05 * (high - low), high, _THRESHOLDS)
    with look():
        figure = Figure(figsize=(6.6, 4.1), layout="constrained")
        axes = figure.subplots()
        handles = {}
        for entry, values in zip(section.scored, scores, strict=True):
            profile = estimate(lambda x: statistics.performance_profile(x, thresholds), values,
                               resamples=_RESAMPLES)
            style = style_of(entry)
            handles[entry.label], = axes.plot(
                thresholds, profile.value, markevery=(3 * entry.style % 12, 12), **style.line)
            if profile.interval is not None:
                axes.fill_between(thresholds, *profile.interval, color=style.color, alpha=0.13,
                                  linewidth=0)
            if entry.label == section.focus and len(scores) > 1:
                handles[entry.label].set(linewidth=2.6, zorder=3)
        axes.set_xlabel(f"{'normalised ' if scale else ''}{section.measure} τ")
        axes.set_ylabel("fraction of runs above τ")
        axes.set_ylim(-0.02, 1.02)
        legend_below(figure, handles)
        return figure


def probability_of_improvement(section: Section, compared: Sequence[Comparison]) -> Figure:
    """P(the focus beats the other), a row for each."""
    with look():
        figure, axes = _rows([comparison.other.label for comparison in compared])
        for row, comparison in enumerate(compared):
            _interval(axes, row, comparison.probability)
        axes.axvline(0.5, color="#6b7280", linewidth=1, linestyle="--", zorder=1)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"probability that {section.focus} is better")
        return figure


def paired_differences(section: Section, compared: Sequence[Comparison]) -> Figure:
    """The focus minus the other: every common seed as a ring, their mean with its interval."""
    paired = [comparison for comparison in compared if comparison.difference is not None]
    with look():
        figure, axes = _rows([comparison.other.label for comparison in paired])
        for row, comparison in enumerate(paired):
            seeds = comparison.by_seed
            axes.plot(seeds, np.full(len(seeds), row + 0.22), "o", markersize=4.5,
                      markerfacecolor="none", markeredgecolor="#6b7280", zorder=2)
            if comparison.difference:
                _interval(axes, row, comparison.difference)
        axes.axvline(0.0, color="#6b7280", linewidth=1, linestyle="--", zorder=1)
        axes.set_xlabel(f"mean {section.measure}: {section.focus} minus the other")
        return figure


def task_similarity(title: str, cosines: np.ndarray, task_names: Sequence[str],
                    limits: tuple[float, float]) -> Figure:
    """Cosines [M, M] as shades between `limits`; each task with itself, always 1, left out."""
    shown = np.where(np.eye(len(cosines), dtype=bool), np.nan, cosines)
    low, high = limits
    with look():
        side = 2.2 + 0.42 * min(len(cosines), 16)
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shown, cmap="Blues", vmin=low, vmax=high)
        axes.grid(False)
        axes.set_facecolor("#e5e7eb")
        axes.set_xticks(range(len(task_names)), task_names, rotation=45, ha="right",
                        rotation_mode="anchor")
        axes.set_yticks(range(len(task_names)), task_names)
        axes.spines[:].set_visible(False)
        if len(cosines) <= _NUMBERS_UP_TO:
            for (row, column), value in np.ndenumerate(shown):
                if np.isfinite(value):
                    dark = value > low + 0.6 * (high - low)
                    axes.text(column, row, fixed(value, 2), ha="center", va="center", fontsize=8,
                              color=_LIGHT_INK if dark else _DARK_INK)
        figure.colorbar(image, ax=axes, shrink=0.7)
        axes.set_title(title)
        return figure


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """An axis with a row for each name, the first on top."""
    figure = Figure(figsize=(5.6, 1.1 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    return figure, axes


def _interval(axes: Axes, row: int, estimate: Estimate) -> None:
    if estimate.interval is not None:
        axes.plot(estimate.interval, [row, row], color="#0b5c8f", linewidth=4, alpha=0.45,
                  solid_capstyle="butt", zorder=2)
    axes.plot(estimate.value, row, "D", color="#0b3a5b", markersize=5.5, zorder=3)
