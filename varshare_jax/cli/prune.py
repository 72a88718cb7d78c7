"""Drops residuals of a trained run and keeps the rest sparsely.

    varshare-prune --run=runs/x --by=magnitude

Plays the policy at ever higher thresholds and writes into the run's folder: the curve as
pruned_<by>.json and .png, and the sparsest policy that loses no more than --max_lost of the
return as pruned_<by>.npz, which varshare-evaluate --run=<that file> plays.
"""

from typing import Any

import numpy as np
from absl import flags

from varshare_jax.cli import _app
from varshare_jax.variational.settings import RULES


def _main(argv: list[str]) -> None:
    _app.no_arguments(argv)
    given = flags.FLAGS
    folder, rule = _app.named_run(), given.by
    if rule not in RULES:
        raise _app.unknown("--by", rule, RULES)
    if not 0 <= given.max_lost <= 1:
        raise _app.UserError(f"--max_lost={given.max_lost}: must lie in [0, 1]")
    _app.positive("episodes")
    from varshare_jax.playing.pruning import files, prune_run  # they import JAX

    result = prune_run(folder, rule=rule, max_lost=given.max_lost, episodes=given.episodes,
                       seed=given.eval_seed)
    _print(result)
    for path in files(folder, rule):
        print(path)


def _print(result: dict[str, Any]) -> None:
    """The curve, then the chosen point task by task."""
    curve, whole = result["curve"], np.array(result["curve"][0]["return"], float)
    shared = result["bytes_unpruned"]["shared"]
    print(f"\n{'threshold':>10}{'kept':>9}{'acting':>9}{'bytes':>11}{'return':>10}{'lost':>9}"
          "   worst task")
    for number, point in enumerate(curve):
        scores = np.array(point["return"], float)
        gap = (whole - scores).mean(0)
        worst = f"{result['task_names'][gap.argmax()]} −{gap.max():.4g}" if gap.max() > 0 else ""
        mark = "  <- chosen" if number == result["chosen"] else ""
        threshold = "all" if point["threshold"] is None else f"{point['threshold']:.3g}"
        stored = shared + np.sum(point["bytes"], 1).mean()
        print(f"{threshold:>10}{np.mean(point['kept']):>9.2%}"
              f"{np.mean(point['kept_acting']):>9.2%}{stored:>11,.0f}{scores.mean():>10.2f}"
              f"{point['lost']:>9.2%}   {worst}{mark}")
    _print_tasks(result)


def _print_tasks(result: dict[str, Any]) -> None:
    chosen, confirmed = result["curve"][result["chosen"]], result["confirmed"]
    columns = [np.mean(values, axis=0) for values in (
        chosen["kept"], chosen["kept_acting"], chosen["bytes"], confirmed["return_unpruned"],
        confirmed["return"])]
    print(f"\nchosen, in other episodes: {confirmed['lost']:.2%} of the return lost\n"
          f"{'task':<20}{'kept':>9}{'acting':>9}{'bytes':>10}{'whole':>10}{'pruned':>10}")
    for name, kept, acting, stored, whole, pruned in zip(result["task_names"], *columns,
                                                         strict=True):
        print(f"{name:<20}{kept:>9.2%}{acting:>9.2%}{stored:>10,.0f}{whole:>10.2f}{pruned:>10.2f}")


def main() -> None:
    """Entry point of `varshare-prune`."""
    flags.DEFINE_string("run", "", "folder of the run to prune")
    flags.DEFINE_string("by", "magnitude", f"what a residual must exceed ({' | '.join(RULES)}): "
                                           "|μ|, or |μ|/σ")
    flags.DEFINE_float("max_lost", 0.02, "share of the mean return that may be lost")
    flags.DEFINE_integer("episodes", 50, "episodes per task and seed at each threshold")
    flags.DEFINE_integer("eval_seed", 1, "seed of the episodes; training never uses it")
    _app.run(_main)


if __name__ == "__main__":
    main()
