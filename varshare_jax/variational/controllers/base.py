"""What a controller of β and σ_prior is; the one that changes nothing."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.settings import Section, field

Scalars = dict[str, jax.Array]
State = dict[str, Any]
EPSILON = 1e-8


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
    sigma_min: float = field(0.01, "sigma_adaptive: lower bound of σ_prior", traced=True, above=0)
    sigma_max: float = field(0.3, "sigma_adaptive: upper bound of σ_prior", traced=True)
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


class Measured(NamedTuple):
    """What a controller may read after an update.

    `update` counts finished updates of `total`; `metrics` are the update's, [M]; `gap` computes
    [M], by how much less the critic errs with a task's own parameters than without them.
    """

    update: jax.Array
    total: int
    metrics: dict[str, jax.Array]
    gap: Callable[[], jax.Array]


class Terms(NamedTuple):
    """What a penalty reads: β [M], σ_prior of each layer [M], the hyperprior's penalty [M]."""

    beta: jax.Array
    std: dict[str, jax.Array]
    hyperprior: jax.Array


@dataclasses.dataclass(frozen=True)
class Fixed:
    """β and σ_prior as configured, for all tasks and layers: the control.

    A controller's state is part of the TrainState and changes between updates; variables of its
    own learn by gradient within them. This one has neither.
    """

    settings: ControllerConfig
    num_tasks: int

    def init_variables(self, layers: Iterable[str], scalars: Scalars) -> State:
        """Variables that descend the loss, by layer."""
        return {}

    def init(self, layers: Iterable[str], scalars: Scalars) -> State:
        """State before the first update."""
        return {}

    def update(self, state: State, measured: Measured, scalars: Scalars) -> State:
        """State after an update. No gradient comes out of it."""
        return state

    def terms(self, layers: Iterable[str], variables: State, state: State,
              scalars: Scalars) -> Terms:
        """What the penalties of an update read, from the state and variables it starts with."""
        std = self.per_task(state.get("sigma_prior", scalars["varshare.sigma_prior"]))
        return Terms(self.per_task(state.get("beta", scalars["varshare.beta"])),
                     dict.fromkeys(layers, std), self.per_task(0.0))

    def term_metrics(self, terms: Terms) -> dict[str, jax.Array]:
        """The terms worth a curve."""
        return {"beta": terms.beta, "sigma_prior": next(iter(terms.std.values()))}

    def state_metrics(self, state: State) -> dict[str, jax.Array]:
        """Variables of the controller worth a curve, [] or [M]."""
        return {}

    def per_task(self, x: jax.Array | float) -> jax.Array:
        """[] or [M] -> [M]."""
        return jnp.broadcast_to(x, (self.num_tasks,))


def smooth(average: Any, value: Any, scalars: Scalars, first: jax.Array) -> Any:
    """Exponential moving average of rate α, which the first value sets outright."""
    rate = jnp.where(first, 1.0, scalars["controller.ema"])
    return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, average, value)
