"""σ_prior of each task in each layer, by how far its means have gone (automatic relevance)."""

import jax
import jax.numpy as jnp

from varshare_jax.variational.controllers.base import Fixed, Terms


class Relevance(Fixed):
    """A task that has departed in a layer gets a wider prior there, and pays less for going on.

    σ_prior,m,l² = min(σ_min² + mean μ_m,l², σ_max²) after every update: for σ = σ_min the prior of
    greatest evidence (MacKay 1992). The price of μ grows by the logarithm of its size, where a
    fixed prior's grows by the square. The state keeps σ_prior of each layer, [M].
    """

    def init(self, layers, scalars):
        return {"sigma_prior": dict.fromkeys(
            layers, self.per_task(scalars["controller.sigma_min"]))}

    def update(self, state, measured, scalars):
        low, high = (jnp.square(scalars[f"controller.sigma_{end}"]) for end in ("min", "max"))
        squares = jax.lax.stop_gradient(measured.squares())
        return {"sigma_prior": {layer: jnp.sqrt(jnp.minimum(low + square, high))
                                for layer, square in squares.items()}}

    def terms(self, layers, variables, state, scalars):
        return Terms(self.per_task(scalars["varshare.beta"]), state["sigma_prior"],
                     self.per_task(0.0))

    def term_metrics(self, terms):
        return {"beta": terms.beta,
                **{f"sigma_prior/{layer}": std for layer, std in terms.std.items()}}
