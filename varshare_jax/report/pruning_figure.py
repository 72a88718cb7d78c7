"""The figure of `varshare-prune`: what is kept of returns, of residuals and of bytes."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from varshare_jax.report.drawing import look, style
from varshare_jax.report.figures import legend_below

_GREY, _INK = "#6b7280", "#111827"
_MEASURES = {"magnitude": "|μ|", "snr": "|μ|/σ"}


def pruning_curve(result: dict[str, Any]) -> Figure:
    """Three panels of a `prune_run` result; lines are tasks, means over seeds."""
    curve = result["curve"]
    kept, returns, stored = (np.array([np.mean(point[name], 0) for point in curve])
                             for name in ("kept", "return", "bytes"))
    with look():
        figure = Figure(figsize=(12.6, 4.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        handles = _returns(left, kept, returns, result)
        _kept_of_tasks(middle, kept, result)
        _bytes(right, kept, stored.mean(1), result)
        legend_below(figure, handles)
        return figure


def _returns(axes: Axes, kept: np.ndarray, returns: np.ndarray, result: dict[str, Any]) -> dict:
    x = 100 * kept.mean(1)
    lines = {name: axes.plot(x, returns[:, m], markevery=3, **_look(m))[0]
             for m, name in enumerate(result["task_names"])}
    lines["mean over tasks"], = axes.plot(x, returns.mean(1), color=_INK, linewidth=3, zorder=3)
    _logarithmic_share(axes, x)
    axes.margins(y=0.12)  # room for the mark's label above the lines
    _mark(axes, x[result["chosen"]])
    axes.set_ylabel("return")
    axes.set_title("What pruning costs")
    return lines


def _kept_of_tasks(axes: Axes, kept: np.ndarray, result: dict[str, Any]) -> None:
    thresholds = np.array([np.nan if point["threshold"] is None else point["threshold"]
                           for point in result["curve"]])
    inner = thresholds > 0
    for m in range(kept.shape[1]):
        axes.plot(thresholds[inner], 100 * kept[inner, m], markevery=3, **_look(m))
    axes.set(xscale="log", yscale="log", ylabel="residuals kept",
             xlabel=f"threshold on {_MEASURES[result['by']]}", title="Which tasks keep most")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}%"))
    if thresholds[result["chosen"]] > 0:
        _mark(axes, thresholds[result["chosen"]])


def _bytes(axes: Axes, kept: np.ndarray, stored: np.ndarray, result: dict[str, Any]) -> None:
    x, known = 100 * kept.mean(1), result["bytes_unpruned"]
    axes.plot(x, stored, color=_INK, marker="o")
    for name, label in (("posterior_per_task", "posterior: mean and spread"),
                        ("means_per_task", "all means")):
        axes.axhline(known[name], color=_GREY, linestyle="--", linewidth=1)
        axes.annotate(label, (0.98, known[name]), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=9, color=_GREY, ha="right")
    _logarithmic_share(axes, x)
    _mark(axes, x[result["chosen"]])
    axes.set(ylabel="bytes of a task's residuals", title="What it saves")
    axes.set_ylim(0, 1.15 * max(known["posterior_per_task"], stored.max()))
    axes.yaxis.set_major_formatter(EngFormatter(unit="B", sep=""))


def _logarithmic_share(axes: Axes, shares: np.ndarray) -> None:
    """From all residuals on the left to none on the right."""
    smallest = shares[shares > 0].min(initial=100.0)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.4)
    axes.set_xlim(115, 0)
    ticks = [tick for tick in (100, 30, 10, 3, 1, 0.3, 0.1) if tick >= smallest]
    axes.set_xticks([*ticks, 0], [*(f"{tick:g}%" for tick in ticks), "0"])
    axes.minorticks_off()
    axes.set_xlabel("residuals kept, mean over tasks")


def _mark(axes: Axes, x: float) -> None:
    axes.axvline(x, color=_GREY, linewidth=1.2, linestyle=":", zorder=1)
    axes.annotate("chosen", (x, 1), (3, -11), xycoords=("data", "axes fraction"),
                  textcoords="offset points", fontsize=9, color=_GREY)


def _look(task: int) -> dict[str, Any]:
    return style(task).line | {"linewidth": 1.3}
