"""β as a function of time: warm-up, hold, late ramp (KL/prior pack, experiment 2)."""

import jax
import jax.numpy as jnp

from varshare_jax.variational.controllers.base import Fixed, Scalars


class Annealed(Fixed):
    """β rises from 0 to the configured value, holds, and rises again to a multiple of it."""

    def init(self, layers, scalars):
        return {"beta": self._at(0.0, scalars)}

    def update(self, state, measured, scalars):
        return {"beta": self._at(measured.update / measured.total, scalars)}

    def _at(self, time: jax.Array | float, scalars: Scalars) -> jax.Array:
        """β at a fraction of training, linear between the phases' ends."""
        beta = scalars["varshare.beta"]
        times = jnp.stack([0.0, scalars["controller.warmup"], scalars["controller.ramp"], 1.0])
        values = jnp.stack([0.0, beta, beta, scalars["controller.ramp_factor"] * beta])
        return jnp.interp(time, times, values)
