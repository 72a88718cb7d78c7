"""The report's curves, drawn without pyplot's global state."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from varshare_jax import statistics
from varshare_jax.report.sections import Entry, Section


class Style(NamedTuple):
    """A line: its colour, dashes (on, off, ... in units of its width) and marker."""

    color: str
    dashes: tuple[float, ...]
    marker: str


# Colours of Okabe & Ito, apart for every common colour blindness; the dashes and markers tell
# the lines apart where there is no colour at all.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_DASHES = ((), (5, 1.5), (5, 1.5, 1, 1.5), (1.2, 1.2), (8, 2), (8, 1.5, 1, 1.5, 1, 1.5), (3, 1))
_MARKERS = "os^DvPX"
_RESAMPLES = 1000


def style_of(entry: Entry) -> Style:
    """The line style of a run, the same throughout a report."""
    lap, color = divmod(entry.style, len(_COLORS))
    pattern = (color + lap) % len(_DASHES)  # past the last colour, other pairs of the two
    return Style(_COLORS[color], _DASHES[pattern], _MARKERS[pattern])


def learning_curves(sections: Sequence[Section]) -> Figure:
    """IQM over tasks and seeds against env steps with 95 % bootstrap bands, an axis per suite."""
    with _style():
        columns = min(2, len(sections))
        rows = -(-len(sections) // columns)
        figure = Figure(figsize=(6.6 if columns == 1 else 11.0, 4.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        handles = {}
        for axes, section in zip(grid, sections, strict=False):
            for entry in section.scored:
                if len(entry.steps):
                    line = _draw(axes, entry, statistics.interquartile_mean(entry.curve),
                                 _interval(entry.curve))
                    handles.setdefault(entry.label, line)
            axes.set_title(section.suite)
            axes.set_ylabel("IQM of the return")
            axes.set_xlabel("environment steps per seed, summed over tasks")
        for axes in grid[len(sections):]:
            axes.remove()
        widest = max(map(len, handles), default=0)
        fit = int(figure.get_figwidth() * 12 / (widest + 9))  # about 12 letters to an inch
        figure.legend(handles.values(), handles.keys(), loc="outside lower center",
                      ncols=max(1, min(fit, len(handles))))
        return figure


def task_curve(section: Section, task: int) -> Figure:
    """A small panel: one task's mean return over seeds ± standard deviation."""
    with _style():
        figure = Figure(figsize=(3.1, 2.3), layout="constrained")
        axes = figure.subplots()
        for entry in section.scored:
            if len(entry.steps):
                returns = entry.curve[:, :, task]
                mean = returns.mean(axis=1)
                spread = returns.std(axis=1, ddof=1) if returns.shape[1] > 1 else None
                line = _draw(axes, entry, mean,
                             None if spread is None else (mean - spread, mean + spread))
                line.set_marker("" if len(mean) > 1 else style_of(entry).marker)
        axes.set_title(section.task_names[task])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return figure


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _interval(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Bootstrap bounds [E], [E] of the IQM of [E, S, M]; None for one seed, which has none."""
    if curve.shape[1] == 1:
        return None
    # The same resamples at every evaluation: the band moves with the data, not with the draw.
    bounds = [statistics.bootstrap_interval(
        scores, statistics.interquartile_mean, resamples=_RESAMPLES,
        rng=np.random.default_rng(0)) for scores in curve]
    low, high = np.array(bounds).T
    return low, high


def _draw(axes: Axes, entry: Entry, center: np.ndarray,
          band: tuple[np.ndarray, np.ndarray] | None) -> Line2D:
    style = style_of(entry)
    line, = axes.plot(entry.steps, center, color=style.color, marker=style.marker,
                      linestyle=(0, style.dashes) if style.dashes else "-",
                      markevery=max(1, len(center) // 8))
    if band is not None:
        axes.fill_between(entry.steps, *band, color=style.color, alpha=0.13, linewidth=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return line


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context({
        "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10.5,
        "axes.titleweight": "bold", "axes.labelsize": 10, "xtick.labelsize": 9,
        "ytick.labelsize": 9, "legend.fontsize": 9.5, "legend.frameon": False,
        "legend.handlelength": 3.4, "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": "#6b7280", "xtick.color": "#374151", "ytick.color": "#374151",
        "axes.grid": True, "grid.color": "#e5e7eb", "grid.linewidth": 0.8,
        "axes.axisbelow": True, "lines.linewidth": 1.8, "lines.markersize": 4,
        "text.parse_math": False,  # a task may be called anything, "$" included
        "svg.hashsalt": "varshare",  # random ids would make every report differ
    }):
        yield
