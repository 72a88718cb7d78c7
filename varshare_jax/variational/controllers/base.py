"""What a controller of β and σ_prior is; the one that changes nothing."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.variational.settings import ControllerConfig

Scalars = dict[str, jax.Array]
State = dict[str, Any]
EPSILON = 1e-8


class Measured(NamedTuple):
    """What a controller may read after an update.

    `update` counts finished updates of `total`; `metrics` are the update's, [M]; `gap` computes
    [M], by how much less the critic errs with a task's own parameters than without them; `squares`
    computes [M] for each layer, the mean square of a task's means.
    """

    update: jax.Array
    total: int
    metrics: dict[str, jax.Array]
    gap: Callable[[], jax.Array]
    squares: Callable[[], dict[str, jax.Array]] = dict


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
