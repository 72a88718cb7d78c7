"""σ_prior of each task by what its own parameters are worth (KL/prior pack, experiment 4)."""

import jax
import jax.numpy as jnp

from varshare_jax.types import present
from varshare_jax.variational.controllers.base import EPSILON, Fixed, Scalars, smooth


class SigmaAdaptive(Fixed):
    """Tasks whose critic gains more than others' from their own parameters get a wider prior.

    The state keeps the last Δ_m (`gap`), its average (`gap_ema`), z_m (`gap_z`) and σ_prior,m.
    """

    def init(self, layers, scalars):
        zeros = jnp.zeros(self.num_tasks)
        return {"gap": zeros, "gap_ema": zeros, "gap_z": zeros,
                "sigma_prior": self._scale(zeros, scalars)}

    def update(self, state, measured, scalars):
        every, learns = self.settings.every, present(scalars, self.num_tasks)

        def median(x):
            if learns is None:
                return jnp.median(x)
            return jnp.nanmedian(jnp.where(learns, x, jnp.nan))

        def measure(state):
            gap = jax.lax.stop_gradient(measured.gap())
            gap = jnp.where(jnp.isfinite(gap), gap, state["gap_ema"])  # no task sets others' prior
            average = smooth(state["gap_ema"], gap, scalars, first=measured.update == every)
            centred = average - median(average)
            z = centred / (median(jnp.abs(centred)) + EPSILON)
            return {"gap": gap, "gap_ema": average, "gap_z": z,
                    "sigma_prior": self._scale(z, scalars)}

        return jax.lax.cond(measured.update % every == 0, measure, lambda state: state, state)

    def state_metrics(self, state):
        return {name: state[name] for name in ("gap", "gap_ema", "gap_z")}

    def _scale(self, z: jax.Array, scalars: Scalars) -> jax.Array:
        """σ_prior,m, whose square rises with z_m from σ_min² to σ_max²."""
        low, high = (jnp.square(scalars[f"controller.sigma_{end}"]) for end in ("min", "max"))
        return jnp.sqrt(low + (high - low) * jax.nn.sigmoid(scalars["controller.kappa"] * z))
