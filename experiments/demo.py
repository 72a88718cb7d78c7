"""The demo: VarShare, hard sharing, L2-soft and the single-task oracle on ten cart-poles.

    make demo

Four seeds of each method in one compiled program; finished runs are not trained again.
"""

from pathlib import Path

from absl import app, flags, logging

import varshare_jax as vs
from varshare_jax.config import replace
from varshare_jax.report import write_report

METHODS = ("varshare", "hard_sharing", "l2_soft", "independent")
SETTINGS = {
    "suite": "cartpole10", "num_seeds": 4, "total_steps": 2_000_000, "ppo.num_envs": 64,
    "run.log_every": 2, "run.eval_every": 2, "run.checkpoint_every": 8,
}

_FOLDER = flags.DEFINE_string("folder", "runs/demo", "where the runs and the report go")
_FIGURE = flags.DEFINE_string("figure_png", "", "also write the learning curves to this PNG")


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    folder = Path(_FOLDER.value)
    for method in METHODS:
        run_dir = str(folder / method)
        config = replace(vs.Config(), SETTINGS | {"method": method, "run_dir": run_dir})
        if vs.train(config, resume=True).summary is None:
            return  # stopped by a signal: the next call goes on from here
    report = write_report([folder / method for method in METHODS], folder / "report.html",
                          figure_png=Path(_FIGURE.value) if _FIGURE.value else None)
    print(f"\n{report.text_table}\n\nreport: {report.page}")


if __name__ == "__main__":
    app.run(main)
