"""Plays a trained policy, per task, with the posterior mean or with sampled weights.

    varshare-evaluate --run=runs/x --weights=sample --samples=5 --episodes=50

Reads the newest checkpoint of the run, finished or not, and prints a table. --out writes the
same as JSON. --engine=gymnasium plays the policy in Gymnasium's own environments too.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from varshare_jax.cli import _app
from varshare_jax.playing.settings import ACTIONS, ENGINES, WEIGHTS


def _main(argv: list[str]) -> None:
    _app.no_arguments(argv)
    run = _app.named_run()
    if flags.FLAGS.weights not in WEIGHTS:
        raise _app.unknown("--weights", flags.FLAGS.weights, WEIGHTS)
    if flags.FLAGS.actions not in ACTIONS:
        raise _app.unknown("--actions", flags.FLAGS.actions, ACTIONS)
    if flags.FLAGS.engine not in ENGINES:
        raise _app.unknown("--engine", flags.FLAGS.engine, ENGINES)
    _app.positive("episodes")
    _app.positive("samples")
    from varshare_jax.playing.scoring import evaluate_run, write_scores  # they import JAX

    scores = evaluate_run(run, episodes=flags.FLAGS.episodes, weights=flags.FLAGS.weights,
                          samples=flags.FLAGS.samples, actions=flags.FLAGS.actions,
                          seed=flags.FLAGS.eval_seed, engine=flags.FLAGS.engine)
    _print(scores)
    if flags.FLAGS.out:
        write_scores(Path(flags.FLAGS.out), run, scores)


def _print(scores: dict) -> None:
    """Mean over seeds with the deviation between them, and the success rate if there is one."""
    from varshare_jax.playing.scoring import MEASURES

    shown = "run", "update", "weights", "samples", "actions", "episodes"
    print(json.dumps({name: scores[name] for name in shown}))
    columns = [name for name in scores if name.endswith(MEASURES)]
    labels = scores.get("configurations", [""])
    for index, label in enumerate(labels):
        seeds = len(scores["return"]) // len(labels)
        members = slice(index * seeds, (index + 1) * seeds)
        if label:
            print(f"\n{label}")
        _print_table(scores["task_names"], {name: np.asarray(scores[name][members], float)
                                            for name in columns})


def _print_table(task_names: list[str], rows: dict[str, np.ndarray]) -> None:
    """A line for each task, of scores [S, M] by name."""
    print(f"{'task':<20}" + "".join(f"{name:>22}" for name in rows))
    for m, task in enumerate((*task_names, "mean over tasks")):
        cells = [values[:, m] if m < values.shape[1] else values.mean(1)
                 for values in rows.values()]
        print(f"{task:<20}" + "".join(f"{c.mean():>14.2f} ± {c.std():<5.2f}" for c in cells))


def main() -> None:
    """Entry point of `varshare-evaluate`."""
    flags.DEFINE_string("run", "", "folder of the run to play, or a file of varshare-prune")
    flags.DEFINE_string("weights", "mean", "weights to play with (mean | sample)")
    flags.DEFINE_string("actions", "mode", "the most likely actions, or drawn ones (mode | sample)")
    flags.DEFINE_string("engine", "jax", "another implementation to play in as well "
                                         f"({' | '.join(ENGINES)})")
    flags.DEFINE_integer("samples", 1, "draws of the weights that act together in each episode")
    flags.DEFINE_integer("episodes", 50, "episodes per task and seed")
    flags.DEFINE_integer("eval_seed", 1, "seed of the episodes; training never uses it")
    flags.DEFINE_string("out", "", "file for the scores as JSON")
    _app.run(_main)


if __name__ == "__main__":
    main()
