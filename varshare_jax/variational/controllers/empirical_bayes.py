"""σ_prior of each layer learned by gradient (KL/prior pack, experiment 5; type-II likelihood)."""

import jax.numpy as jnp

from varshare_jax.variational.controllers.base import Fixed, Terms


class EmpiricalBayes(Fixed):
    """log σ_prior of each layer descends the loss, tied to its start by a weak spring."""

    def init_variables(self, layers, scalars):
        return dict.fromkeys(layers, jnp.log(scalars["varshare.sigma_prior"]))

    def terms(self, layers, variables, state, scalars):
        target = jnp.log(scalars["varshare.sigma_prior"])
        stretch = sum(jnp.square(log_std - target) for log_std in variables.values())
        std = {layer: self.per_task(jnp.exp(log_std)) for layer, log_std in variables.items()}
        return Terms(self.per_task(scalars["varshare.beta"]), std,
                     self.per_task(scalars["controller.hyperprior"] * stretch))

    def term_metrics(self, terms):
        shown = {"beta": terms.beta, "hyperprior": terms.hyperprior}
        for layer, std in terms.std.items():
            shown |= {f"sigma_prior/{layer}": std, f"log_sigma_prior/{layer}": jnp.log(std)}
        return shown
