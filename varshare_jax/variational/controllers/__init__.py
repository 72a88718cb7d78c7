"""Controllers of the KL's weight β and the prior's scale σ_prior, which act between updates.

Small state machines of pure functions under one interface. docs/kl_prior.md defines them.
"""

from varshare_jax.variational.controllers.annealed import Annealed
from varshare_jax.variational.controllers.base import Fixed, Measured, Terms
from varshare_jax.variational.controllers.empirical_bayes import EmpiricalBayes
from varshare_jax.variational.controllers.relevance import Relevance
from varshare_jax.variational.controllers.sigma_adaptive import SigmaAdaptive
from varshare_jax.variational.controllers.triggered import Triggered

CONTROLLERS: dict[str, type[Fixed]] = {
    "fixed": Fixed, "annealed": Annealed, "triggered": Triggered,
    "sigma_adaptive": SigmaAdaptive, "empirical_bayes": EmpiricalBayes,
    "relevance": Relevance}

__all__ = ["CONTROLLERS", "Fixed", "Measured", "Terms"]
