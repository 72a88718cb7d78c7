"""Controllers of the KL's weight β and the prior's scale σ_prior, which act between updates.

Small state machines of pure functions under one interface. docs/kl_prior.md defines them.
"""

from varshare_jax.variational.control.annealed import Annealed
from varshare_jax.variational.control.base import Fixed, Measured, Terms
from varshare_jax.variational.control.empirical_bayes import EmpiricalBayes
from varshare_jax.variational.control.sigma_adaptive import SigmaAdaptive
from varshare_jax.variational.control.triggered import Triggered

CONTROLLERS: dict[str, type[Fixed]] = {
    "fixed": Fixed, "annealed": Annealed, "triggered": Triggered,
    "sigma_adaptive": SigmaAdaptive, "empirical_bayes": EmpiricalBayes}

__all__ = ["CONTROLLERS", "Fixed", "Measured", "Terms"]
