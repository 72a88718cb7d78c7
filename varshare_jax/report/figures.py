"""The report's learning curves and their key."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from varshare_jax.report.drawing import look, style_of
from varshare_jax.report.sections import Entry, Section

STEPS, SECONDS = "steps", "seconds"
_AXIS_LABELS = {STEPS: "environment steps per seed, summed over tasks",
                SECONDS: "wall-clock seconds of training all seeds"}
_BANDS_UP_TO = 5  # runs; more bands than that hide one another in a small panel


def learning_curves(sections: Sequence[Section], against: str = STEPS) -> Figure:
    """IQM over tasks and seeds with 95 % bootstrap bands, an axis per suite.

    `against` is what the horizontal axis counts: STEPS or SECONDS.
    """
    with look():
        columns = min(2, len(sections))
        rows = -(-len(sections) // columns)
        figure = Figure(figsize=(6.6 if columns == 1 else 11.0, 4.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        handles: dict[str, Line2D] = {}
        for axes, section in zip(grid, sections, strict=False):
            for entry in section.scored:
                if len(entry.steps):
                    line = _draw(axes, section, entry, getattr(entry, against), *entry.iqm_curve)
                    handles.setdefault(entry.label, line)
            axes.set_title(_within(section.suite, 60))
            axes.set_ylabel(f"IQM of the {section.measure}")
            axes.set_xlabel(_AXIS_LABELS[against])
        for axes in grid[len(sections):]:
            axes.remove()
        legend_below(figure, handles)
        return figure


def task_curve(section: Section, task: int) -> Figure:
    """A small panel: one task's mean over seeds, ± standard deviation if runs are few."""
    with look():
        figure = Figure(figsize=(3.1, 2.3), layout="constrained")
        axes = figure.subplots()
        for entry in section.scored:
            if len(entry.steps):
                scores = entry.curve[:, :, task]
                mean, band = scores.mean(axis=1), None
                if has_bands(section) and scores.shape[1] > 1:
                    spread = scores.std(axis=1, ddof=1)
                    band = mean - spread, mean + spread
                _draw(axes, section, entry, entry.steps, mean, band, markers=3)
        axes.set_title(section.task_names[task])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return figure


def has_bands(section: Section) -> bool:
    """Whether the panels of tasks have bands."""
    return len(section.scored) <= _BANDS_UP_TO


def key(entry: Entry) -> Figure:
    """A short piece of a run's line, for a legend outside of figures."""
    with look():
        figure = Figure(figsize=(0.5, 0.14))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **style_of(entry).line)
        axes.set_axis_off()
        return figure


def _within(title: str, letters: int) -> str:
    """The title, or as much of it as has room."""
    return title if len(title) <= letters else f"{title[:letters - 1]}…"


def legend_below(figure: Figure, handles: dict[str, Line2D]) -> None:
    """A legend of as many columns as fit."""
    widest = max(map(len, handles), default=0)
    fit = int(figure.get_figwidth() * 12 / (widest + 9))  # about 12 letters to an inch
    figure.legend(handles.values(), handles.keys(), loc="outside lower center",
                  ncols=max(1, min(fit, len(handles))))


def _draw(axes: Axes, section: Section, entry: Entry, x: np.ndarray, center: np.ndarray,
          band: tuple[np.ndarray, np.ndarray] | None, markers: int = 8) -> Line2D:
    every = max(1, len(center) // markers)
    # Every run starts its markers elsewhere, or they would lie on one another.
    line, = axes.plot(x, center, markevery=(entry.style % every, every), **style_of(entry).line)
    if entry.label == section.focus and len(section.scored) > 1:
        line.set(linewidth=2.6, zorder=3)
    if band is not None:
        axes.fill_between(x, *band, color=style_of(entry).color, alpha=0.13, linewidth=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return line
