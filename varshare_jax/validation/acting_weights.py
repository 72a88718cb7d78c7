"""Which weights act and which learn: what each choice does to PPO's ratio and to the return.

    python -m varshare_jax.validation.acting_weights

PPO compares the log-probability under the learning weights with the one recorded when acting.
Noise in either enters that ratio before anything is learned: its spread in the first minibatch
of an update is the price of a choice, shown here beside the return that it buys.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import app, flags, logging

import varshare_jax as vs
from varshare_jax.config import replace
from varshare_jax.report.statistics import interquartile_mean
from varshare_jax.runs.files import read_rows

_STEPS = flags.DEFINE_integer("total_steps", 1_000_000, "environment steps per seed")
_SEEDS = flags.DEFINE_integer("num_seeds", 4, "seeds")
_FOLDER = flags.DEFINE_string("folder", "runs/acting_weights", "where the runs go")


def choices() -> Iterator[tuple[str, str, str, str]]:
    """(act_with, learn_with, hold, estimator)."""
    yield "mean", "mean", "rollout", "shared"
    yield "sample", "mean", "rollout", "shared"
    for estimator in ("shared", "flipout", "local"):
        yield "mean", "sample", "rollout", estimator
    for hold in ("rollout", "episode", "step"):
        yield "sample", "sample", hold, "shared"


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    print("| act | learn | held for | estimator | ratio std, first update | ratio std, mean "
          "| ratio std, last | first KL, mean | IQM return |\n" + "|---" * 9 + "|")
    for act, learn, hold, estimator in choices():
        run_dir = f"{_FOLDER.value}/{act}_{learn}_{hold}_{estimator}"
        config = replace(vs.Config(), {
            "suite": "cartpole10", "num_seeds": _SEEDS.value, "total_steps": _STEPS.value,
            "run_dir": run_dir, "ppo.num_envs": 64, "varshare.act_with": act,
            "varshare.learn_with": learn, "varshare.hold": hold, "varshare.estimator": estimator,
            "run.log_every": 1, "run.eval_every": 1000, "run.tensorboard": False})
        result = vs.train(config, resume=True, quiet=True)
        assert result.summary  # nothing interrupts it
        rows = [row["metrics"] for row in read_rows(Path(run_dir) / "train.jsonl")]
        spread = [np.mean(row["first_ratio_std"]) for row in rows]
        first_kl = np.mean([row["first_approx_kl"] for row in rows])
        iqm = interquartile_mean(np.asarray(result.summary["eval"]["return"]))
        held = hold if act == "sample" else "—"
        print(f"| {act} | {learn} | {held} | {estimator if learn == 'sample' else '—'} "
              f"| {spread[0]:.3f} | {np.mean(spread):.3f} | {spread[-1]:.3f} | {first_kl:.4f} "
              f"| {iqm:.0f} |", flush=True)


if __name__ == "__main__":
    app.run(main)
