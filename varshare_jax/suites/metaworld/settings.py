"""Which engine the settings of Meta-World's suites mean on this machine."""

import jax

from varshare_jax.errors import UserError
from varshare_jax.suites.settings import MetaWorldConfig

_DEVICES = {"mujoco": ("CPU",), "warp": ("CPU", "GPU")}  # MJX runs on all


def physics_here(options: MetaWorldConfig, required: bool = True) -> str:
    """The engine that `options` ask for: `auto` is MuJoCo on a CPU, MJX on an accelerator.

    Where JAX's device cannot run it: raises UserError, or names the one it can if not `required`.
    """
    device, wanted = jax.default_backend(), options.physics
    own = "mujoco" if device == "cpu" else "mjx"
    if wanted == "auto":
        return own
    if wanted in _DEVICES and device.upper() not in (runs := _DEVICES[wanted]):
        if not required:
            return own
        raise UserError(f"--metaworld.physics={wanted}: runs on a {' or '.join(runs)}, but JAX "
                        f"computes on a {device}; allowed here: auto, mjx (or set "
                        "JAX_PLATFORMS=cpu)")
    return wanted
