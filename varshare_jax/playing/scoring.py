"""What a finished or running training's policy scores, played anew."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.learner import check_memory
from varshare_jax.playing import engines, policies
from varshare_jax.playing.evaluation import act, compiled
from varshare_jax.runs.files import plain, write_json
from varshare_jax.runs.monitoring import Progress

MEASURES = ("return", "success", "length")
"""What names of scores [S][M] end in."""


def evaluate_run(path: Path | str, *, episodes: int = 50, weights: str = "mean",
                 samples: int = 1, actions: str = "mode", seed: int = 1,
                 engine: str = "jax") -> dict[str, Any]:
    """Plays a run's newest checkpoint or a pruned file: scores `[S][M]`, and of what.

    Another `engine` plays it as well: its scores are those that its name precedes.
    Raises UserError where `path` holds neither, or not the `weights` asked for.
    """
    if engine != "jax":
        if weights != "mean":
            raise UserError(f"--weights={weights}: --engine={engine} plays the mean weights only")
        if actions != "mode":
            raise UserError(f"--actions={actions}: --engine={engine} plays the most likely ones")
        evaluate_elsewhere = engines.make(engine)
    policy = policies.load(path, weights)
    suite = policy.problem.suite
    if engine != "jax":
        engines.check(engine, suite)
    check_evaluation(policy, episodes, weights, samples)
    play = compiled(policy.problem, episodes=episodes, weights=weights, samples=samples,
                    actions=actions)
    with Progress(suite.name, 1, 1, policy.num_seeds).working("compiling and playing",
                                                              announce=False):
        played = jax.device_get(play(policy.player, policy.evaluation_keys(seed)))
    scores = {"run": str(path), "update": policy.update, "weights": weights,
              "samples": samples, "actions": actions, "episodes": episodes,
              "task_names": suite.task_names, "return": played.total.mean(-1)}
    if policy.problem.config.varies:
        scores["configurations"] = policy.problem.config.labels()
    if suite.has_success:
        scores["success"] = played.success.mean(-1)
    if engine != "jax":
        played = _play_elsewhere(evaluate_elsewhere, engine, policy, episodes, seed)
        scores |= {f"{engine}_{name}": values.mean(-1) for name, values in played.items()}
    return plain(scores)


def write_scores(out: Path, run: Path, scores: dict[str, Any]) -> None:
    """Writes scores; those of a whole sweep also beside each configuration, its seeds alone.

    The latter where `out` is in the sweep's own folder: what stands there belongs to its runs.
    """
    write_json(out, scores)
    labels = scores.get("configurations", ())
    if not labels or out.resolve().parent != run.resolve():
        return
    seeds = len(scores["return"]) // len(labels)
    for index, label in enumerate(labels):
        if (run / label / "config.json").is_file():
            own = {name: values[index * seeds:(index + 1) * seeds] if name.endswith(MEASURES)
                   else values for name, values in scores.items() if name != "configurations"}
            write_json(run / label / out.name, own | {"run": str(run / label)})


def check_evaluation(policy: policies.Policy, episodes: int, weights: str = "mean",
                     samples: int = 1) -> None:
    """Raises UserError, before compiling, for more episodes or draws than the memory holds."""
    suite = policy.problem.suite
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(policy.player.variables["task"]))
    drawn = own / policy.num_seeds * episodes * samples if weights == "sample" else 0
    played = suite.num_tasks * episodes * suite.bytes_per_env()
    check_memory({f"episodes={episodes}": played, f"samples={samples}": drawn}, policy.num_seeds)


def _play_elsewhere(evaluate_elsewhere: engines.Evaluate, engine: str, policy: policies.Policy,
                    episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Episodes of every seed in another engine, [S, M, E]."""
    progress = Progress(engine, 1, 1, policy.num_seeds)
    played = []
    for s in range(policy.num_seeds):
        with progress.working(f"playing seed {s + 1} of {policy.num_seeds}"):
            played.append(evaluate_elsewhere(
                policy.problem.suite, functools.partial(act, policy.problem, policy.of_seed(s)),
                episodes, np.random.default_rng((seed, s)), progress.say))
    return {name: np.stack([scores[name] for scores in played]) for name in played[0]}
