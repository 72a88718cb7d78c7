"""VarShare: W_m = θ + φ_m with a variational residual φ_m ~ q_m = N(μ_m, softplus(ρ_m)²).

The objective is the ELBO: PPO's loss under q_m plus β·KL(q_m ‖ N(0, σ_prior²)) / n, where n is
the number of samples that a task contributes to an update. θ pays nothing, so a task departs
from it only where its reward is worth the nats.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from varshare_jax.errors import UserError
from varshare_jax.methods.base import Draws, Method, Rates
from varshare_jax.methods.settings import ControllerConfig, VarShareConfig
from varshare_jax.settings import Section
from varshare_jax.types import present
from varshare_jax.variational import natural
from varshare_jax.variational.controllers import CONTROLLERS, Fixed
from varshare_jax.variational.diagnostics import diagnose, mean_squares
from varshare_jax.variational.gaussian import (
    Gaussian,
    is_gaussian,
    kl_divergence,
    kl_whose_prior_follows_means,
    rho_of,
    sample_tree,
)
from varshare_jax.variational.recentering import recenter
from varshare_jax.variational.tree import layer_of, layers


class VarShare(Method):
    """Variational weight-space residuals under a zero-centred prior."""

    settings: ClassVar[tuple[type[Section], ...]] = (VarShareConfig, ControllerConfig)
    offers = "a residual, mean and deviation"
    one_gaussian_each: ClassVar[bool] = True
    """Whether each weight's residual is one Gaussian: estimators by example, recentring need it."""
    gaussian_prior: ClassVar[bool] = True
    """Whether each posterior's price is its KL from one Gaussian, as posterior=natural needs it."""

    def split(self, params, key):
        """Residuals start at N(0, sigma_init²): every task begins as the shared network."""
        return params, jax.tree.map(lambda p: self._around(jnp.zeros_like(p)), params)

    def compose(self, shared, task, index):
        def add(residual, theta):
            if is_gaussian(residual):
                return Gaussian(theta + residual.mean, residual.rho)
            return theta + residual  # `sample` has already drawn it

        return jax.tree.map(add, self._learned(task), shared, is_leaf=is_gaussian)

    def sample(self, task, key: jax.Array):
        return sample_tree(self._learned(task), key)

    def init_memory(self, task, scalars):
        names = layers(task, is_gaussian)
        return (self.controller.init_variables(names, scalars),
                {"controller": self.controller.init(names, scalars)})

    def terms(self, variables, memory, scalars):
        return {"prior": self.controller.terms(
            layers(variables["task"], is_gaussian), variables.get("prior", {}),
            memory["controller"], scalars)}

    def penalty(self, task, terms, scalars, samples):
        """β KL(q_m ‖ p) / n and the hyperprior; metrics in nats: KL in all and of each layer.

        `shift/<layer>` is the part that μ pays, Σ μ² / (2 σ_prior²): zero until a task departs.
        """
        prior, by_name = terms["prior"], layers(self._priced(task, terms), is_gaussian)
        nats: dict[str, Any]
        shift: dict[str, Any]
        nats, shift = (
            {layer: sum(jnp.sum(entries(q, self.prior_std(q, prior.std[layer]))) for q in qs)
             for layer, qs in by_name.items()} for entries in (self.nats, self.shift))
        posteriors = jax.tree.leaves(self.residual(task), is_leaf=is_gaussian)
        size, total = sum(q.mean.size for q in posteriors), sum(nats.values())
        metrics = {"kl": total, **{f"kl/{layer}": kl for layer, kl in nats.items()},
                   **{f"shift/{layer}": kl for layer, kl in shift.items()},
                   "sigma": sum(jnp.sum(q.std) for q in posteriors) / size,
                   "abs_mu": sum(jnp.sum(jnp.abs(q.mean)) for q in posteriors) / size}
        cost = prior.beta * total / samples + prior.hyperprior
        return cost, metrics | self.controller.term_metrics(prior)

    def nats(self, q: Gaussian, prior_std: jax.Array | float) -> jax.Array:
        """KL of a posterior from its prior, entry by entry."""
        detach = self.config.controller.detach_sigma
        return (kl_whose_prior_follows_means if detach else kl_divergence)(q, prior_std)

    def shift(self, q: Gaussian, prior_std: jax.Array | float) -> jax.Array:
        """The part of `nats` that is due to q's mean."""
        return jnp.square(q.mean / prior_std) / 2

    def prior_std(self, q: Gaussian, sigma_prior: jax.Array) -> jax.Array | float:
        """The standard deviation of a posterior's prior in a layer of this σ_prior."""
        return sigma_prior

    def curvature(self, task, terms, scalars, samples):
        if self.config.varshare.posterior == "adam":
            return None
        weight = scalars["varshare.beta"] / samples
        return self._by_prior(lambda q, std: natural.implied(q, std, weight), terms, task)

    def settle(self, task, curvature, terms, samples):
        weight = terms["prior"].beta / samples
        return self._by_prior(lambda q, std, h: natural.settled(q, h, std, weight), terms, task,
                              curvature)

    def _by_prior(self, function: Callable, terms: Any, task: Any, *trees: Any) -> Any:
        """function(posterior, its prior's σ, leaves of `trees`) for every posterior of `task`."""
        std = terms["prior"].std

        def of(path, q, *others):
            return function(q, self.prior_std(q, std[layer_of(path)]), *others)

        return jax.tree_util.tree_map_with_path(of, task, *trees, is_leaf=is_gaussian)

    def rates(self, scalars):
        return Rates(rho=scalars["varshare.rho_rate"], prior=scalars["controller.rate"],
                     curvature=scalars["varshare.curvature_rate"])

    def after_update(self, variables, losses, scalars, key):
        how = self.config.varshare.recenter
        if how == "none":
            return variables
        return recenter(variables, scalars["varshare.recenter_rate"], how,
                        present(scalars, self.num_tasks))

    def steer(self, memory, variables, measured, scalars):
        """The controller's next state; metrics: its variables, and how the posteriors look."""
        residuals = jax.vmap(self.residual)(variables["task"])
        diagnosis = diagnose(residuals, variables["shared"], present(scalars, self.num_tasks))
        measured = measured._replace(metrics=measured.metrics | diagnosis,
                                     squares=lambda: mean_squares(residuals))
        state = self.controller.update(memory["controller"], measured, scalars)
        own = jax.tree.map(self.controller.per_task, self.controller.state_metrics(state))
        return memory | {"controller": state}, diagnosis | own

    @property
    def controller(self) -> Fixed:
        """What steers β and σ_prior."""
        settings = self.config
        return CONTROLLERS[settings.varshare.controller](settings.controller, self.num_tasks)

    def validate(self):
        super().validate()
        settings = self.config.varshare
        for flag, allowed in (("estimator", "shared"), ("recenter", "none")):
            if not self.one_gaussian_each and (value := getattr(settings, flag)) != allowed:
                raise UserError(f"--varshare.{flag}={value}: needs residuals with one Gaussian for "
                                f"each weight, which {self.name} has not; use "
                                f"--varshare.{flag}={allowed} or --method=varshare")
        if settings.posterior == "natural" and not self.gaussian_prior:
            raise UserError(f"--varshare.posterior=natural: needs a Gaussian prior for each "
                            f"posterior and no other price, which {self.name} has not; use "
                            "--varshare.posterior=adam or --method=varshare")
        if settings.posterior == "natural" and not settings.learn_sigma:
            raise UserError("--varshare.posterior=natural: σ follows the curvature, and "
                            "--varshare.learn_sigma=False keeps it; use one of the two")

    def _around(self, mean: jax.Array) -> Gaussian:
        """A new posterior."""
        return Gaussian(mean, jnp.full_like(mean, rho_of(self.config.varshare.sigma_init)))

    def _learned(self, task):
        """`task` as the loss sees it: without a gradient of σ where that is not learned."""
        return task if self.config.varshare.learn_sigma else natural.hold_rho(task)

    def _priced(self, task, terms):
        """`task` as its price sees it: around 0, without a gradient of ρ where σ follows the loss's
        curvature."""
        follows = self.config.varshare.posterior == "natural"
        return natural.hold_rho(task) if follows else self._learned(task)

    @property
    def draws(self) -> Draws:  # type: ignore[override]  # of the settings, not of the class
        settings = self.config.varshare
        return Draws(settings.act_with == "sample", settings.learn_with == "sample",
                     settings.estimator, settings.draws, settings.hold)
