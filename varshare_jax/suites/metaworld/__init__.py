"""Meta-World in MuJoCo or MJX: MT10, MT3 and single tasks (docs/metaworld.md)."""

from varshare_jax.errors import unknown
from varshare_jax.suites.base import Suite
from varshare_jax.suites.metaworld import requirements, tasks
from varshare_jax.suites.metaworld.settings import physics_here
from varshare_jax.suites.settings import MetaWorldConfig

__all__ = ["BENCHMARKS", "make", "owns", "physics_here"]

BENCHMARKS = {"mt10": tuple(tasks.TASKS), "mt3": ("reach", "push", "pick-place")}


def owns(name: str) -> bool:
    """Whether a suite of that name is made here."""
    return name in BENCHMARKS or name.partition(":")[0] == "mt1"


def make(name: str, options: MetaWorldConfig) -> Suite:
    """`mt10`, `mt3` or `mt1:<task>`.

    Raises UserError for an unknown task, an engine that the device cannot run, more threads than
    cores, and where the packages it needs are missing.
    """
    family, _, task = name.partition(":")
    if family == "mt1" and task.removesuffix("-v3") not in tasks.TASKS:
        raise unknown("--suite", name, [f"mt1:{known}" for known in tasks.TASKS])
    requirements.check(physics_here(options))
    from varshare_jax.suites.metaworld.suite import MetaWorldSuite  # imports mujoco

    chosen = [tasks.get(known) for known in (BENCHMARKS.get(name) or [task])]
    return MetaWorldSuite(name, chosen, options)
