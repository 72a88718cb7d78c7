"""Which engine the settings of Meta-World's suites mean on this machine."""


import jax

from varshare_jax.errors import UserError
from varshare_jax.suites.settings import MetaWorldConfig


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
