"""The settings of methods and of how gradients are combined. Nothing here imports JAX."""

import dataclasses

from varshare_jax.errors import UserError, unknown
from varshare_jax.settings import Section, field
from varshare_jax.variational.settings import CONTROLLERS, ControllerConfig


@dataclasses.dataclass(frozen=True)
class VarShareConfig(Section):
    """VarShare's posterior, prior and the weights that act and learn."""

    section = "varshare"

    beta: float = field(1.0, "weight β of KL / samples per task; 1 is the per-sample ELBO",
                        traced=True, least=0)
    sigma_prior: float = field(0.1, "standard deviation of the prior", traced=True, above=0)
    sigma_init: float = field(0.01, "initial standard deviation of the posterior", above=0)
    posterior: str = field("adam", "how σ is learned: adam, by steps of ρ down its gradient, of a "
                                   "size that the learning rate sets; natural, by the curvature "
                                   "of the loss, whatever the learning rate",
                           choices=("adam", "natural"))
    rho_rate: float = field(1.0, "learning rate of ρ over that of the means (posterior=adam)",
                            traced=True, least=0)
    curvature_rate: float = field(0.01, "weight of a gradient step in the running curvature "
                                        "(posterior=natural)", traced=True, least=0, most=1)
    estimator: str = field("shared", "estimator of the expected loss",
                           choices=("shared", "flipout", "local"))
    act_with: str = field("mean", "weights that collect rollouts", choices=("mean", "sample"))
    learn_with: str = field("sample", "weights in the loss", choices=("mean", "sample"))
    hold: str = field("rollout", "how long an acting sample is held",
                      choices=("rollout", "episode", "step"))
    draws: int = field(1, "draws of the weights per minibatch, whose gradients are averaged",
                       above=0)
    learn_sigma: bool = field(True, "learn the posterior's standard deviations; else they stay at "
                                    "sigma_init")
    controller: str = field("fixed", "what steers beta and sigma_prior while training; see "
                                     "controller.*", choices=tuple(CONTROLLERS))
    recenter: str = field("none", "move task means to the shared weights after every update: one "
                                  "shift for all, which no task's function notices, or each its "
                                  "own, as in the legacy notes",
                          choices=("none", "shift", "literal"))
    recenter_rate: float = field(0.1, "share α of the means that moves", traced=True, least=0,
                                 most=1)


@dataclasses.dataclass(frozen=True)
class ContextualConfig(Section):
    """Contextual policies."""

    section = "contextual"

    size: int = field(8, "entries of each task's embedding", above=0)


@dataclasses.dataclass(frozen=True)
class L2SoftConfig(Section):
    """L2-soft sharing."""

    section = "l2_soft"

    penalty: float = field(1e-3, "weight λ of each task's squared residual norm", traced=True,
                           least=0)


@dataclasses.dataclass(frozen=True)
class PaCoConfig(Section):
    """Parameter-compositional networks."""

    section = "paco"

    bases: int = field(5, "networks that tasks combine (K)", above=0)
    loss_threshold: float = field(100.0, "tasks whose loss exceeds this sit an update out and "
                                         "draw new coefficients", traced=True, above=0)


@dataclasses.dataclass(frozen=True)
class SoftModularizationConfig(Section):
    """Soft modularization; presets soft_shallow (2 × 2) and soft_deep (4 × 4)."""

    section = "soft_modularization"

    layers: int = field(2, "layers of modules (L)", above=0)
    modules: int = field(2, "modules of each layer (n)", above=0)


@dataclasses.dataclass(frozen=True)
class LoRAConfig(Section):
    """Low-rank residuals."""

    section = "lora"

    rank: int = field(4, "rank r of each kernel's residual", above=0)


@dataclasses.dataclass(frozen=True)
class HorseshoeConfig(Section):
    """The horseshoe's scales."""

    section = "horseshoe"

    rate: float = field(0.01, "learning rate of the scales' posteriors, which are logarithms; not "
                              "annealed", traced=True, least=0)


@dataclasses.dataclass(frozen=True)
class TrustRegionConfig(Section):
    """Trust region around the posterior that an update starts from."""

    section = "trust_region"

    eta: float = field(1.0, "weight η at the start; it adapts for each task", traced=True, above=0)
    target: float = field(0.05, "KL ε to keep to in an update, nats per parameter", traced=True,
                          above=0)


@dataclasses.dataclass(frozen=True)
class AdaptConfig(Section):
    """Learning tasks that a run has left out."""

    section = "adapt"

    regime: str = field("", "how a task that source has left out is learned, alone: scratch; full, "
                            "from what the others share; residual, from that and without "
                            "changing it; unfreeze, first as residual, then as full; several, "
                            "separated by commas, in one compiled program; '': no adaptation")
    source: str = field("", "folder of the run that has left each of the tasks out")
    start: str = field("fresh", "what a method offers a new task starts as it does for any, as the "
                                "mean of the others', or as that of the other that plays it best "
                                "(tried for eval_episodes)", choices=("fresh", "mean", "best"))
    unfreeze_after: int = field(10, "updates after which regime unfreeze changes what the others "
                                    "share", above=0)

    @property
    def regimes(self) -> tuple[str, ...]:
        return tuple(self.regime.split(",")) if self.regime else ()

    @property
    def inherits(self) -> bool:
        """Whether any regime begins with what others have learned."""
        return self.regimes not in ((), ("scratch",))

    def check(self) -> None:
        for each in self.regimes:
            if each not in REGIMES:
                raise unknown("--adapt.regime", each, REGIMES)
        if len(set(self.regimes)) < len(self.regimes):
            raise UserError(f"--adapt.regime={self.regime}: names a regime twice")
        if self.inherits and not self.source:
            raise UserError(f"--adapt.regime={self.regime}: needs --adapt.source, the folder of a "
                            "run trained with --leave_out=all")


REGIMES = "scratch", "full", "residual", "unfreeze"


@dataclasses.dataclass(frozen=True)
class GradientsConfig(Section):
    """How tasks' gradients of the shared parameters become one."""

    section = "gradients"

    combine: str = field("mean", "combiner", choices=("mean", "pcgrad", "cagrad"))
    separately: bool = field(True, "combine actor, critic and shared trunk each by itself")
    cagrad_c: float = field(0.4, "CAGrad's c: radius around the mean gradient, relative to its "
                                 "norm", traced=True, above=0)
    cagrad_rescale: bool = field(True, "divide CAGrad's update by 1 + c²")
    cosines: bool = field(False, "measure once an update how far tasks' gradients of the shared "
                                 "parameters agree; costs one minibatch's gradient")


SECTIONS: tuple[type[Section], ...] = (
    VarShareConfig, ControllerConfig, ContextualConfig, L2SoftConfig, PaCoConfig,
    SoftModularizationConfig, LoRAConfig, HorseshoeConfig, TrustRegionConfig, AdaptConfig)
"""Those of single methods, in the order of their flags."""
