"""Runs a whole experiment by its name: the plan first, then its runs, then the report.

    varshare-experiment --list
    varshare-experiment demo
    varshare-experiment stage3_baselines_cartpole10 --only=varshare,l2_soft --seeds=2 --steps=1e6
    varshare-experiment stage5_mt10 --launcher=slurm --launcher.gpus=1 --launcher.partition=gpu

The name is that of a plan of the package or of a TOML file. Finished runs are skipped, and a
stopped or killed experiment goes on with the same command. With --launcher=slurm every run is a
job, which goes on when the command is stopped, and the same command comes back to it. Exit status
1: a run failed; 75: a signal has stopped it.
"""

from pathlib import Path

from absl import flags

from varshare_jax.cli import _app, _launching


def _main(argv: list[str]) -> int:
    from varshare_jax import experiments  # here, as --help does without JAX
    from varshare_jax.experiments import launching
    from varshare_jax.experiments.forecast import Forecast
    from varshare_jax.runs.devices import use_cpu_cores
    from varshare_jax.runs.signals import STOPPED

    if flags.FLAGS.list:
        for name in experiments.names():
            print(f"{name:<32}{experiments.title(name)}")
        return 0
    if len(argv) != 2:
        raise _app.UserError("name one experiment; --list shows them")
    overrides = {field: value for field, value in (("num_seeds", flags.FLAGS.seeds),
                                                   ("total_steps", flags.FLAGS.steps))
                 if value is not None}
    plan = experiments.load(argv[1], Path(flags.FLAGS.out) if flags.FLAGS.out else None,
                            only=flags.FLAGS.only, overrides=overrides,
                            launcher=_launching.settings())
    if plan.search:
        raise _app.UserError(f"{plan.name}: has a search; varshare-tune carries it out")
    use_cpu_cores()
    experiments.check(plan, here=not _launching.on_cluster())
    print(Forecast(plan).table(plan) + "\n", flush=True)
    if flags.FLAGS.dry_run:
        return 0
    figure = Path(flags.FLAGS.figure_png) if flags.FLAGS.figure_png else None
    if _launching.on_cluster():
        outcome = launching.conduct(plan, figure_png=figure)
    else:
        outcome = experiments.conduct(plan, figure_png=figure)
    for command, reason in outcome.failures:
        print(f"failed: {command.title}: {reason}\n  repeat it with: {command}")
    return STOPPED if outcome.stopped else 1 if outcome.failures else 0


def main() -> None:
    """Entry point of `varshare-experiment`."""
    flags.DEFINE_bool("list", False, "list the experiments and end")
    flags.DEFINE_bool("dry_run", False, "show the plan and the expected time, train nothing")
    flags.DEFINE_string("out", "", "folder of the runs and the report; runs/<name> by default")
    flags.DEFINE_list("only", [], "the runs to make, of those that the plan names")
    _app.define_number("seeds", None, "seeds of every run, instead of the plan's")
    _app.define_number("steps", None, "environment steps per seed, instead of the plan's")
    flags.DEFINE_string("figure_png", "", "also write the learning curves to this PNG")
    _launching.define_flags()
    flags.FLAGS.set_gnu_getopt(True)
    _app.run(_main)


if __name__ == "__main__":
    main()
