"""Runs of one seed each, made one after another, as the one run that they are parts of."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from varshare_jax.report.runs import Evaluation, Moment, Posterior, Run

_PART = re.compile(r"seed_\d+")  # the folder of a part, as plans with `seeds_apart` name it
_OWN = {"seed", "num_seeds", "run_dir"}  # what parts of one run may differ in


def join(runs: Sequence[Run]) -> list[Run]:
    """Runs in folders `seed_<number>` of one folder that differ in nothing but their seeds become
    one, where the first of them stands. Parts that are not finished are left out while others are.
    """
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        apart = _PART.fullmatch(run.path.name)
        shared = repr({k: v for k, v in run.config.items() if k not in _OWN})
        groups.setdefault((run.path.parent, shared) if apart else run.path, []).append(run)
    return [_one([run for run in parts if run.finished] or parts) if len(parts) > 1 else parts[0]
            for parts in groups.values()]


def _one(parts: Sequence[Run]) -> Run:
    """One run of all parts' seeds, S in the order of their numbers."""
    parts = sorted(parts, key=lambda run: run.seeds)
    finals = [run.final for run in parts if run.final]
    return dataclasses.replace(
        parts[0], path=parts[0].path.parent, summary=_summary(parts),
        seeds=tuple(seed for run in parts for seed in run.seeds),
        evaluations=_aligned([run.evaluations for run in parts], _evaluation),
        final=_evaluation(finals) if len(finals) == len(parts) else None,
        moments=_aligned([run.moments for run in parts], _moment),
        similarity=_stacked([run.similarity for run in parts]),
        posterior=_posterior([run.posterior for run in parts]),
        others={key: np.concatenate([run.others[key] for run in parts])
                for key in parts[0].others if all(key in run.others for run in parts)},
        effective_steps=_stacked([run.effective_steps for run in parts]))


def _summary(parts: Sequence[Run]) -> dict[str, Any] | None:
    """The first one's, with what the others add to it."""
    found = [run.summary for run in parts if run.summary]
    if not found:
        return None
    totals = {name: sum(summary[name] for summary in found)
              for name in ("wall_seconds", "compile_seconds")
              if all(summary.get(name) is not None for summary in found)}
    steps, seconds = sum(s.get("env_steps") or 0 for s in found), totals.get("wall_seconds")
    speed = {"steps_per_second": steps / seconds} if seconds else {}
    diverged = [event for summary in found for event in summary.get("diverged") or ()]
    return dict(found[0]) | totals | speed | {"diverged": diverged}


def _aligned(logs: Sequence[Sequence[Any]], joined: Callable[[list[Any]], Any]) -> tuple[Any, ...]:
    """What all logs have at the same env steps."""
    by_steps: list[Mapping[int, Any]] = [{row.env_steps: row for row in log} for log in logs]
    common = functools.reduce(set.intersection, map(set, by_steps))
    return tuple(joined([rows[steps] for rows in by_steps]) for steps in sorted(common))


def _evaluation(rows: Sequence[Evaluation]) -> Evaluation:
    return Evaluation(rows[0].env_steps, sum(row.wall_seconds for row in rows),
                      np.concatenate([row.returns for row in rows]),
                      _stacked([row.success for row in rows]))


def _moment(rows: Sequence[Moment]) -> Moment:
    names = [name for name in rows[0].metrics if all(name in row.metrics for row in rows)]
    return Moment(rows[0].env_steps, {
        name: np.concatenate([row.metrics[name] for row in rows]) for name in names})


def _stacked(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if len(present) == len(arrays) else None


def _posterior(parts: Sequence[Posterior | None]) -> Posterior | None:
    present = [part for part in parts if part is not None]
    if len(present) < len(parts):
        return None
    layers = {layer: _histogram([part.sigma[layer] for part in present if layer in part.sigma])
              for layer in present[0].sigma}
    return Posterior(_stacked([part.gram for part in present]), present[0].residual, layers)


def _histogram(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One histogram of as many bins over the range of all, each bin counted where its middle is."""
    edges = np.linspace(min(edges[0] for edges, _ in parts), max(edges[-1] for edges, _ in parts),
                        len(parts[0][0]))
    counts = [np.histogram((own[1:] + own[:-1]) / 2, edges, weights=count)[0]
              for own, count in parts]
    return edges, np.sum(counts, 0)
