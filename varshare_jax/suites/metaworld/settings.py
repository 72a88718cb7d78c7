"""The settings of Meta-World's suites, and which engine they mean on this machine."""

import dataclasses

import jax

from varshare_jax.errors import UserError
from varshare_jax.settings import Section, field


@dataclasses.dataclass(frozen=True)
class MetaWorldConfig(Section):
    """The suites mt10, mt3 and mt1:<task>."""

    section = "metaworld"

    physics: str = field("auto", "engine that steps the scenes: mujoco on a CPU, mjx on any "
                                 "device; auto: mujoco where JAX computes on a CPU, else mjx",
                         choices=("auto", "mjx", "mujoco"))
    threads: int = field(0, "threads that step scenes in C; 0: one for each core", least=0)
    reward: str = field("v2", "version of Meta-World's rewards", choices=("v1", "v2"))
    horizon: int = field(500, "steps of an episode", above=0)
    observe_goal: bool = field(True, "show the goal, as MT benchmarks do; else zeros in its place")
    one_hot: bool = field(False, "append the task's one-hot code to its observations")


def physics_here(options: MetaWorldConfig, required: bool = True) -> str:
    """The engine that `options` ask for: `auto` is MuJoCo on a CPU, MJX on an accelerator.

    Where JAX's device cannot run it: raises UserError, or names the one it can if not `required`.
    """
    device = jax.default_backend()
    own = "mujoco" if device == "cpu" else "mjx"
    if options.physics == "auto":
        return own
    if options.physics == "mujoco" and own != "mujoco":
        if not required:
            return own
        raise UserError(f"--metaworld.physics=mujoco: runs on a CPU, but JAX computes on a "
                        f"{device}; allowed here: auto, mjx (or set JAX_PLATFORMS=cpu)")
    return options.physics
