"""The settings of what steers posteriors and their prior. Nothing here imports JAX."""

import dataclasses

from varshare_jax.settings import Section, field

CONTROLLERS = ("fixed", "annealed", "triggered", "sigma_adaptive", "empirical_bayes",
               "relevance")
"""Names of controllers; `variational.controllers` has them."""

RULES = ("magnitude", "snr")
"""What pruning may compare with its threshold; `variational.sparsity` computes it."""


@dataclasses.dataclass(frozen=True)
class ControllerConfig(Section):
    """Controllers of β and σ_prior (docs/kl_prior.md)."""

    section = "controller"

    warmup: float = field(0.1, "annealed: fraction of training in which β rises from 0",
                          traced=True, least=0, most=1)
    ramp: float = field(0.8, "annealed: fraction of training after which β rises again",
                        traced=True, least=0, most=1)
    ramp_factor: float = field(2.0, "annealed: the last β over the one held", traced=True, least=0)
    every: int = field(20, "triggered, sigma_adaptive: updates between decisions (K)", above=0)
    ema: float = field(0.05, "triggered, sigma_adaptive: weight α of a new measurement",
                       traced=True, least=0, most=1)
    ratio_min: float = field(0.05, "triggered: β falls while noise over weight is below",
                             traced=True, least=0)
    ratio_max: float = field(0.2, "triggered: β rises while noise over weight is above",
                             traced=True)
    gamma_up: float = field(1.1, "triggered: factor by which β rises", traced=True, above=0)
    gamma_down: float = field(1.1, "triggered: divisor by which β falls", traced=True, above=0)
    beta_min: float = field(1e-4, "triggered: least β", traced=True, least=0)
    beta_max: float = field(100.0, "triggered: greatest β", traced=True)
    sigma_min: float = field(0.01, "sigma_adaptive, relevance: lower bound of σ_prior",
                             traced=True, above=0)
    sigma_max: float = field(0.3, "sigma_adaptive, relevance: upper bound of σ_prior",
                             traced=True)
    kappa: float = field(1.0, "sigma_adaptive: steepness κ of the map from z to σ_prior²",
                         traced=True, least=0)
    hyperprior: float = field(1e-3, "empirical_bayes: strength λ of the spring that ties log "
                                    "σ_prior to its start", traced=True, least=0)
    rate: float = field(0.01, "empirical_bayes: learning rate of log σ_prior; not annealed",
                        traced=True, least=0)
    detach_sigma: bool = field(False, "empirical_bayes: σ_prior follows the means alone, not the "
                                      "posterior's σ")

    def check(self) -> None:
        self.check_order(("warmup", "ramp"), ("ratio_min", "ratio_max"), ("beta_min", "beta_max"),
                         ("sigma_min", "sigma_max"))
