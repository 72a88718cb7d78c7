"""Pruning a trained run: how small it gets, what that costs, and the sparse file it leaves."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.methods.gradients import sides_of
from varshare_jax.playing.evaluation import compiled
from varshare_jax.playing.policies import Policy, load, save_pruned
from varshare_jax.playing.scoring import check_evaluation
from varshare_jax.runs.files import plain, write_bytes, write_json
from varshare_jax.runs.monitoring import Progress
from varshare_jax.variational import residuals, sparsity
from varshare_jax.variational.gaussian import is_gaussian

KEPT = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.0)
"""Shares of all tasks' residuals that the thresholds of a curve leave."""


class Files(NamedTuple):
    """Where a run's pruning goes."""

    curve: Path
    figure: Path
    policy: Path


def files(folder: Path, rule: str) -> Files:
    """The names in a run's folder."""
    return Files(*(folder / f"pruned_{rule}.{kind}" for kind in ("json", "png", "npz")))


def prune_run(folder: Path, *, rule: str, max_lost: float = 0.02, episodes: int = 50,
              seed: int = 1, quiet: bool = False) -> dict[str, Any]:
    """Prunes a run's residuals at ever higher thresholds and plays what is left.

    One threshold holds for all tasks and seeds. The highest one up to which no more than the
    share `max_lost` of the mean return is lost is `chosen`; its policy is written sparsely, and
    played again together with the whole one in episodes that had no part in the choice
    (`confirmed`). Returns what it writes as JSON. Raises UserError where there is nothing to
    prune by that rule.
    """
    from varshare_jax.report.drawing import to_png  # matplotlib takes a second
    from varshare_jax.report.pruning_figure import pruning_curve

    policy = load(folder)
    _check(policy, folder, rule)
    check_evaluation(policy, episodes)
    progress = Progress(f"pruning by {rule}", len(KEPT), 1, policy.num_seeds, quiet)
    curve: list[dict[str, Any]] = []
    for number, threshold in enumerate(_thresholds(policy, rule), 1):
        with progress.working(f"threshold {number} of {len(KEPT)}: playing", announce=False):
            point = _point(policy, threshold, rule, episodes, seed)
        point["lost"] = _lost((curve or [point])[0]["return"], point["return"])
        curve.append(point)
        progress.say(f"threshold {number} of {len(KEPT)}: {np.mean(point['kept']):7.2%} kept, "
                     f"return {np.mean(point['return']):.4g}")
    chosen = _choose(curve, max_lost)
    result = plain({
        "run": str(folder), "update": policy.update, "by": rule, "episodes": episodes,
        "max_lost": max_lost, "task_names": policy.problem.suite.task_names,
        "bytes_unpruned": _bytes_unpruned(policy), "curve": curve, "chosen": chosen,
        "confirmed": _confirm(policy, curve[chosen]["threshold"], rule, episodes, seed + 1)})
    written = files(folder, rule)
    save_pruned(written.policy, policy, _pruned(policy, curve[chosen]["threshold"], rule))
    write_bytes(written.figure, to_png(pruning_curve(result)))
    write_json(written.curve, result)
    return result


def _check(policy: Policy, folder: Path, rule: str) -> None:
    method = policy.problem.config.method
    variables = policy.of_seed(0).variables
    if not residuals.mirrors(variables):
        raise UserError(f"--run={folder}: tasks of {method} own no residual for every shared "
                        "parameter, so there is nothing to prune")
    random = all(map(is_gaussian, jax.tree.leaves(variables["task"], is_leaf=is_gaussian)))
    if rule == "snr" and not random:
        raise UserError(f"--by=snr: residuals of {method} have no standard deviations; "
                        "use --by=magnitude")


def _thresholds(policy: Policy, rule: str) -> list[float]:
    """Thresholds that leave the shares `KEPT` of all residuals, lowest first."""
    scores = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(
        sparsity.importance(policy.player.variables["task"], rule))])
    inner = np.nanquantile(scores, 1 - np.array(KEPT[1:-1]))
    return [0.0, *map(float, inner), float("inf")]


def _pruned(policy: Policy, threshold: float, rule: str) -> Any:
    return sparsity.prune(policy.player.variables["task"], threshold, rule)


def _point(policy: Policy, threshold: float, rule: str, episodes: int,
           seed: int) -> dict[str, Any]:
    """A point of the curve: kept shares, bytes of residuals and returns, [S, M].

    `kept_acting`, `bytes_acting`: of the networks that act. Returns say nothing about the others.
    """
    task = jax.tree.map(jnp.asarray, _pruned(policy, threshold, rule))
    (kept, stored), (kept_acting, stored_acting) = _counts(task), _counts(_acting(policy, task))
    pruned = policy.player.replace(variables=policy.player.variables | {"task": task})
    played = compiled(policy.problem, episodes=episodes)(pruned, policy.evaluation_keys(seed))
    return {"threshold": threshold, "kept": kept, "bytes": stored, "kept_acting": kept_acting,
            "bytes_acting": stored_acting, "return": np.asarray(played.total.mean(-1))}


def _counts(task: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kept shares of pruned residuals [S, M, ...] and their bytes, [S, M]."""
    kept = np.asarray(jax.vmap(sparsity.kept)(task))
    size = sum(math.prod(leaf.shape[2:]) for leaf in jax.tree.leaves(task))
    return kept, np.array([[sparsity.stored_bytes(round(share * size), size) for share in row]
                           for row in kept])


def _acting(policy: Policy, task: Any) -> Any:
    """The residuals that a policy's action depends on: evaluations never read the critic of PPO."""
    sides = sides_of(task)
    acting = [sides[name] for name in (*policy.problem.algorithm.acts_by, "trunk")
              if name in sides]
    return {name: branch for side in acting for name, branch in side.items()}


def _size(policy: Policy) -> int:
    """Residuals P of one task."""
    return sum(leaf.size for leaf in jax.tree.leaves(policy.of_seed(0).variables["shared"]))


def _bytes_unpruned(policy: Policy) -> dict[str, int]:
    """Bytes of one seed: what all tasks share, one task's residuals dense, its posterior."""
    task = policy.of_seed(0).variables["task"]
    posterior = sum(leaf.nbytes for leaf in jax.tree.leaves(task))
    size = _size(policy) * np.dtype(np.float32).itemsize
    return {"shared": size, "means_per_task": size,
            "posterior_per_task": posterior // policy.problem.suite.num_tasks}


def _lost(whole: np.ndarray, pruned: np.ndarray) -> float:
    """Share of the mean return over seeds and tasks that is lost; negative where it rose."""
    return float((np.nanmean(whole) - np.nanmean(pruned))
                 / max(abs(np.nanmean(whole)), np.finfo(float).tiny))


def _choose(curve: list[dict[str, Any]], max_lost: float) -> int:
    """The last point before the first that loses more than `max_lost`."""
    return next((i for i, point in enumerate(curve) if point["lost"] > max_lost),
                len(curve)) - 1


def _confirm(policy: Policy, threshold: float, rule: str, episodes: int,
             seed: int) -> dict[str, Any]:
    """The chosen threshold in episodes that it was not chosen by."""
    whole, pruned = (_point(policy, level, rule, episodes, seed)["return"]
                     for level in (0.0, threshold))
    return {"return_unpruned": whole, "return": pruned, "lost": _lost(whole, pruned)}
