"""Searches the settings of every run of a plan with equal effort: Optuna over compiled programs.

    varshare-tune plan.toml
    varshare-tune plan.toml --dry_run
    varshare-tune plan.toml --only=varshare --storage=postgresql://user@host/studies
    varshare-tune plan.toml --launcher=slurm --launcher.workers=8 --launcher.gpus=1

The plan names ranges and choices (docs/experiments.md); several workers may share a storage. A
stopped or killed search goes on with the same command. With --launcher=slurm the workers are jobs,
which go on when the command is stopped, and the same command comes back to them. Exit status 1:
workers failed before all trials were told; 75: a signal has stopped it.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from varshare_jax.cli import _app, _launching

if TYPE_CHECKING:
    from varshare_jax.experiments import Plan
    from varshare_jax.experiments.search.results import Written

_OF_WORKERS = ("trials", "seeds", "steps", "sampler")


def _main(argv: list[str]) -> int:
    from varshare_jax import experiments  # here, as --help does without JAX
    from varshare_jax.runs.devices import use_cpu_cores
    from varshare_jax.runs.signals import STOPPED, Stopped

    plan = _plan(argv)
    use_cpu_cores(plan.runs[0].config.run.devices)
    experiments.check(plan, here=not _launching.on_cluster())
    print(experiments.describe(plan), flush=True)
    if flags.FLAGS.dry_run:
        return 0
    if not importlib.util.find_spec("optuna"):
        raise _app.UserError("optuna is not installed; pip install 'varshare_jax[tune]'")
    try:
        return _share(plan, argv[1]) if _launching.on_cluster() else _work(plan)
    except Stopped:
        return STOPPED


def _plan(argv: list[str]) -> "Plan":
    from varshare_jax import experiments

    given = flags.FLAGS
    if len(argv) != 2:
        raise _app.UserError("name one plan that has a search; varshare-experiment --list shows "
                             "those of the package")
    fields = (("num_seeds", given.seeds), ("total_steps", given.steps))
    searched = (("trials", given.trials), ("sampler", given.sampler))
    plan = experiments.load(
        argv[1], Path(given.out) if given.out else None,
        overrides={name: value for name, value in fields if value is not None},
        search={name: value for name, value in searched if value is not None},
        launcher=_launching.settings())
    if not plan.search:
        raise _app.UserError(f"{plan.name}: has no search: give it 'space.<field>' of what is to "
                             "be tuned")
    for name in given.only:
        if name not in {run.name for run in plan.runs}:
            raise _app.unknown("--only", name, [run.name for run in plan.runs])
    return plan


def _work(plan: "Plan") -> int:
    """Takes trials in this process."""
    from varshare_jax.experiments.search.tuner import search
    from varshare_jax.runs import provenance
    from varshare_jax.runs.signals import Stopped

    provenance.use_compile_cache(plan.runs[0].config.run.compile_cache)
    try:
        return _tell(search(plan, flags.FLAGS.storage, only=flags.FLAGS.only))
    except Stopped:
        print("stopped by a signal; the same command goes on from here")
        raise


def _share(plan: "Plan", source: str) -> int:
    """Has jobs take them."""
    from varshare_jax.experiments import launching
    from varshare_jax.experiments.search.tuner import so_far, storage_of

    given = flags.FLAGS
    storage = given.storage or storage_of(plan.out, shared=True)
    complete, written = so_far(plan, storage, only=given.only)
    failed: dict[str, str] = {}
    if not complete:
        only = [f"--only={','.join(given.only)}"] if given.only else []
        passed_on = [f"--{name}={given[name].value}" for name in _OF_WORKERS if given[name].present]
        failed = launching.share(plan, [source, *only, *passed_on, f"--out={plan.out}",
                                        f"--storage={storage}"])
        complete, written = so_far(plan, storage, only=given.only)
    return _tell(written) or int(not complete and bool(failed))


def _tell(written: "Written | None") -> int:
    if written is None:
        print("not every run has all of its trials yet; the same command goes on from here")
        return 0
    print(f"\n{written.table.read_text()}\ntuned settings: {written.settings}\n"
          f"every trial: {written.trials}\nreport: {written.page}\n"
          f"copy the settings to where a plan's 'tuned' points")
    return 0


def main() -> None:
    """Entry point of `varshare-tune`."""
    flags.DEFINE_bool("dry_run", False, "show what would be searched, train nothing")
    flags.DEFINE_string("out", "", "folder of the study and of what it chose; runs/<name> by "
                                   "default")
    flags.DEFINE_list("only", [], "the runs whose trials this worker takes; all by default")
    flags.DEFINE_string("storage", "", "a database's URL or the path of a journal, which several "
                                       "workers may share; a SQLite file in --out by default")
    _app.define_number("trials", None, "trials of every run, instead of the plan's")
    _app.define_number("seeds", None, "seeds of every trial, instead of the plan's")
    _app.define_number("steps", None, "environment steps per seed, instead of the plan's")
    flags.DEFINE_string("sampler", None, "tpe or random, instead of the plan's")
    _launching.define_flags()
    flags.FLAGS.set_gnu_getopt(True)
    _app.run(_main)


if __name__ == "__main__":
    main()
