"""The figures of what tasks own: maps of layers, maps of tasks, spreads of posteriors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from varshare_jax.report.drawing import look, style_of, to_png
from varshare_jax.report.placement import place
from varshare_jax.report.runs import Posterior
from varshare_jax.report.sections import Entry
from varshare_jax.report.statistics import principal_coordinates
from varshare_jax.report.tables import by_layer

_ROOMY, _RADIUS = 12, 4.6  # tasks whose names fit a map of common size; points of a mark
_MAPPED = {"kl": "KL from the prior [nats], mean over seeds",
           "relative_mu": "Σ|μ| / Σ|θ|, mean over seeds"}
_GREY, _INK = "#6b7280", "#111827"


def layer_map(title: str, values: np.ndarray, task_names: Sequence[str], layers: Sequence[str],
              top: float) -> Figure:
    """Tasks × layers [M, L] as shades from 0 to `top`."""
    tasks, columns = values.shape
    with look():
        figure = Figure(figsize=(1.9 + 0.2 * columns, 0.9 + 0.17 * tasks), layout="constrained")
        axes = figure.subplots()
        picture = axes.imshow(values, cmap="Blues", vmin=0.0, vmax=top, aspect="auto")
        axes.grid(False)
        axes.set_facecolor("#e5e7eb")
        axes.set_xticks(range(columns), layers, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(tasks), task_names)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.02)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
        axes.set_title(title)
        return figure


def tensorboard_maps(metrics: Mapping[str, np.ndarray],
                     task_names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Names and PNGs of the maps that a row of metrics, each [S, M], gives."""
    for prefix in _MAPPED:
        layers, values = by_layer(metrics, prefix)
        if layers and np.isfinite(values).any():
            top = max(np.nanmax(values), np.finfo(float).tiny)
            yield prefix, to_png(_labelled(prefix, values, task_names, layers, top))


def _labelled(prefix: str, values: np.ndarray, task_names: Sequence[str],
              layers: Sequence[str], top: float) -> Figure:
    """A map to be read by itself and not beside others: large, its axes named, with numbers."""
    figure = layer_map(_MAPPED[prefix], values, task_names, layers, top)
    tasks, columns = values.shape
    figure.set_size_inches(3.4 + 0.62 * columns, 1.8 + 0.3 * tasks)
    axes = figure.axes[0]
    axes.set(xlabel="layer", ylabel="task")
    for (m, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            axes.text(column, m, number, ha="center", va="center", fontsize=8,
                      color="white" if value > 0.6 * top else _INK)
    return figure


def task_maps(posterior: Posterior, task_names: Sequence[str],
              parameters: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Figure]]:
    """The tasks in two dimensions: with their names, then with each of their `parameters` [M]."""
    gram = np.asarray(posterior.gram)
    products = gram[np.isfinite(gram).all(axis=(1, 2))].mean(0)
    points, shares = principal_coordinates(np.pad(products, (0, int(posterior.residual))))
    yield "names", _task_map("tasks", points, shares, task_names, np.zeros(len(task_names)))
    for name, values in parameters.items():
        if len(values) == len(task_names) and np.ptp(values) > 0:
            labels = [f"{value:g}" for value in values]
            yield name, _task_map(name, points, shares, labels, values)


def _task_map(title: str, points: np.ndarray, shares: np.ndarray, labels: Sequence[str],
              values: np.ndarray) -> Figure:
    """Points [K, 2], the first M of them tasks and the last, if there is one more, their origin."""
    tasks = len(labels)
    scale = LogNorm if (values > 0).all() else Normalize
    with look():
        side = max(1.0, np.sqrt(tasks / _ROOMY))
        figure = Figure(figsize=(4.6 * side, 3.9 * side), layout="constrained")
        axes = figure.subplots()
        axes.scatter(points[:tasks, 0], points[:tasks, 1], c=values, cmap="Blues",
                     norm=scale(*_limits(values)), s=70, edgecolors=_INK, linewidths=0.8, zorder=3)
        if len(points) > tasks:
            axes.plot(*points[tasks], "+", color=_GREY, markersize=13, markeredgewidth=1.6)
        axes.margins(0.2, 0.16)
        axes.set(title=title, xlabel=f"axis 1 ({shares[0]:.0%} of the variance)",
                 ylabel=f"axis 2 ({shares[1]:.0%})")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _label(axes, points, labels)
        return figure


def _limits(values: np.ndarray) -> tuple[float, float]:
    """A scale on which neither end is lost: the lowest is pale, equal values are in the middle."""
    low, high = values.min(), values.max()
    return (low, high) if high > low else (low - 1, high + 1)


def _label(axes: Axes, points: np.ndarray, labels: Sequence[str]) -> None:
    """Labels of the first points, clear of one another; a line leads to those further off."""
    figure: Any = axes.figure
    tasks = len(labels)
    notes = [axes.annotate(
        label, point, (0, 0), textcoords="offset points", fontsize=8, color=_INK, zorder=4,
        ha="center", va="center", in_layout=False,
        arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6, "shrinkA": 0,
                    "shrinkB": 3}) for label, point in zip(labels, points, strict=False)]
    figure.draw_without_rendering()  # lays out what the labels have to fit into
    figure.set_layout_engine("none")
    pixels = axes.transData.transform(points)
    sizes = np.array([Text.get_window_extent(note).size for note in notes])
    points_to_pixels = figure.dpi / 72
    centres = place(pixels[:tasks], sizes, pixels, axes.bbox.get_points(),
                    _RADIUS * points_to_pixels)
    if lost := int(np.isnan(centres).any(axis=1).sum()):
        axes.set_title(f"{axes.get_title()} ({lost} of {tasks} labels have no room)")
    for note, centre, pixel, size in zip(notes, centres, pixels, sizes, strict=False):
        if np.isnan(centre).any():
            note.remove()
            continue
        note.set_position((centre - pixel) / points_to_pixels)
        beyond = np.maximum(np.abs(centre - pixel) - size / 2, 0)
        if note.arrow_patch:
            note.arrow_patch.set_visible(
                bool(np.linalg.norm(beyond) > 2 * _RADIUS * points_to_pixels))


def sigma_histogram(layer: str, entries: Sequence[Entry]) -> Figure:
    """A small panel: the density of log σ in one layer, a line for each run."""
    with look():
        figure = Figure(figsize=(3.1, 2.3), layout="constrained")
        axes = figure.subplots()
        for entry in entries:
            posterior = entry.run.posterior
            if posterior and layer in posterior.sigma:
                _density(axes, entry, *posterior.sigma[layer])
        axes.set_xscale("log")
        axes.set_title(layer)
        axes.set_yticks([])
        axes.set_ylim(bottom=0)
        low, high = axes.get_xlim()
        few = np.log10(high / low) < 1
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        return figure


def _density(axes: Axes, entry: Entry, edges: np.ndarray, counts: np.ndarray) -> None:
    look_of = style_of(entry)
    density = counts / counts.sum() / np.diff(np.log10(edges))
    line = look_of.line | {"marker": ""}
    axes.step(edges, [0, *density], where="pre", **line)
    settings = entry.run.config.get("varshare", {})
    if "sigma_init" in settings:
        axes.axvline(settings["sigma_init"], color=_GREY, linewidth=1.2, linestyle=":", zorder=1)
    if "sigma_prior" in settings:
        axes.plot(settings["sigma_prior"], 0, "^", color=look_of.color, markersize=8,
                  clip_on=False, zorder=5)
