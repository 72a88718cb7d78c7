"""The flags of commands that may hand their work to a cluster."""

from typing import Any

from absl import flags

from varshare_jax.cli import _app
from varshare_jax.runs.settings import LauncherConfig
from varshare_jax.settings import leaves

_SETTINGS = tuple(leaves(LauncherConfig(), f"{LauncherConfig.section}."))


def define_flags() -> None:
    """`--launcher`, and a flag for every key of a plan's table `launcher`."""
    flags.DEFINE_string("launcher", "local", "who does the work: local, this process and its own; "
                                             "slurm, jobs of a cluster (local | slurm)")
    for leaf in _SETTINGS:
        _app.define_leaf(leaf)


def on_cluster() -> bool:
    """Whether jobs do the work; UserError for an unknown launcher."""
    launcher = flags.FLAGS.launcher
    if launcher not in ("local", "slurm"):
        raise _app.unknown("--launcher", launcher, ("local", "slurm"))
    return launcher == "slurm"


def settings() -> dict[str, Any]:
    """What is given for the jobs; UserError where there will be none."""
    given = {leaf.name: flags.FLAGS[leaf.name].value for leaf in _SETTINGS
             if flags.FLAGS[leaf.name].present}
    if not on_cluster() and given:
        name = next(iter(given))
        raise _app.UserError(f"--{name}={given[name]}: only --launcher=slurm reads it")
    return {name.partition(".")[2]: value for name, value in given.items()}
