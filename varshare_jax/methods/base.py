"""What a method of sharing parameters between tasks is: one task's network out of two collections.

A method in a file of its own defines `split` and `compose`. It has a section in `settings` where it
needs one, and a line in the registry (or an entry point of another package).
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.errors import UserError
from varshare_jax.methods.gradients import COMBINERS, Combiner
from varshare_jax.networks.torsos import TORSOS
from varshare_jax.settings import Section
from varshare_jax.types import Variables
from varshare_jax.variational.controllers import Measured

Scalars = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Params = dict[str, Any]


class Draws(NamedTuple):
    """Where a method's random weights are drawn; methods without any keep the defaults.

    `act`, `learn`: whether rollouts and losses use draws in place of means. `estimator`: of the
    expected loss. `count`: draws per minibatch whose gradients are averaged. `hold`: how long an
    acting draw is kept (rollout, episode, step).
    """

    act: bool = False
    learn: bool = False
    estimator: str = "shared"
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    hold: str = "rollout"

    @property
    def per_example(self) -> bool:
        """Whether layers draw for each example, rather than weights for each batch."""
        return self.learn and self.estimator != "shared"


class Rates(NamedTuple):
    """What moves at a rate of its own.

    `rho` is a factor on the means' learning rate. The others are rates in themselves, which neither
    that one nor its annealing changes: of the collection `prior` and of posteriors that are a
    `Scale`, both logarithms that Adam moves; and `curvature`, the weight of a gradient step in the
    running mean that posteriors follow in place of ρ's steps.
    """

    rho: Any = 1.0
    prior: Any = 0.0
    scale: Any = 0.0
    curvature: Any = 0.0


@dataclasses.dataclass(frozen=True)
class Method:
    """How one task's network is composed of shared parameters and the task's own.

    The network itself knows nothing of sharing. `split` makes the two collections from a freshly
    initialised network, `compose` gives one task its parameters; the functions below them
    default to doing nothing. Everything is written for one task and lifted by
    `lifting.MultiTaskNetwork`. `config` is the whole tree of settings, of which a method reads
    its own sections (`settings`) and `network`.
    """

    config: Any
    num_tasks: int
    name: str
    combiner: str = "mean"
    """How tasks' gradients of shared parameters become one; "mean": as the settings say."""

    settings: ClassVar[tuple[type[Section], ...]] = ()
    shares: ClassVar[bool] = True
    """Whether the collection `shared` holds anything."""
    offers: ClassVar[str] = ""
    """What a task that comes later gets of its own, beside what is shared; "": nothing."""
    draws: ClassVar[Draws] = Draws()

    def split(self, params: Params, key: jax.Array) -> tuple[Params, Params]:
        """(shared, task) at the start, from the parameters of a new network."""
        raise NotImplementedError

    def compose(self, shared: Params, task: Params, index: jax.Array) -> Params:
        """The parameters of task `index`; leaves are arrays or Gaussians."""
        raise NotImplementedError

    def sample(self, task: Params, key: jax.Array) -> Params:
        """Draws the random parameters of one task, returning a tree that acts as drawn."""
        return task

    def residual(self, task: Params) -> Params:
        """One task's own parameters as they meet the shared ones: arrays, or Gaussians with the
        mean and variance of what is drawn."""
        return task

    def penalty(self, task: Params, terms: Any, scalars: Scalars,
                samples: int) -> tuple[jax.Array, Metrics]:
        """What one task pays for its parameters: scalar loss, scalar metrics.

        `samples` is the n of the ELBO: how many samples the loss is a mean over.
        """
        return jnp.zeros(()), {}

    def curvature(self, task: Params, terms: Any, scalars: Scalars, samples: int) -> Any:
        """Curvatures of the loss at which one task's posteriors are as they start: arrays in the
        tree of its Gaussians; None where σ is not to follow them."""
        return None

    def settle(self, task: Params, curvature: Any, terms: Any, samples: int) -> Params:
        """One task's parameters with the σ that is best at these curvatures of its loss."""
        raise NotImplementedError

    def init_memory(self, task: Params, scalars: Scalars) -> tuple[Params, Any]:
        """(prior, memory): parameters of the penalty that learn with the others, and the state of
        what steers it between updates."""
        return {}, {}

    def terms(self, variables: Variables, memory: Any, scalars: Scalars) -> Any:
        """What the tasks' penalties read beside their parameters, leaves [M, ...]."""
        return {}

    def steer(self, memory: Any, variables: Variables, measured: Measured,
              scalars: Scalars) -> tuple[Any, Metrics]:
        """The next `memory` after an update; metrics [M]."""
        return memory, {}

    def rates(self, scalars: Scalars) -> Rates:
        """What moves at a rate of its own: Adam's steps know nothing of a parameter's scale."""
        return Rates()

    def weigh(self, losses: jax.Array, scalars: Scalars) -> jax.Array:
        """All tasks' losses [M] as they enter the update."""
        return losses

    def hold(self, variables: Variables, updates: Variables) -> Variables:
        """A step's `updates`, with zeros for what has a gradient and moments, yet stands still."""
        return updates

    def after_update(self, variables: Variables, losses: jax.Array, scalars: Scalars,
                     key: jax.Array) -> Variables:
        """Changes variables after an iteration in which tasks had the mean `losses` [M]."""
        return variables

    def torso(self) -> nn.Module:
        """The part of the network that turns observations into features."""
        settings = self.config.network
        return TORSOS[settings.torso](settings, self.draws.estimator)

    @property
    def context_size(self) -> int:
        """Inputs that the network gets beside the observation."""
        return 0

    def validate(self) -> None:
        """Raises UserError for settings that this method cannot work with."""
        chosen = self.config.gradients.combine
        if chosen != "mean" and not self.shares:
            raise UserError(f"--gradients.combine={chosen}: method {self.name} has no shared "
                            "parameters whose gradients could be combined")
        if self.combiner not in ("mean", chosen) and chosen != "mean":
            raise UserError(f"--gradients.combine={chosen}: method {self.name} combines by "
                            f"{self.combiner}; use --method="
                            f"{self.name.removesuffix(self.combiner).strip('_') or 'hard_sharing'}")

    @property
    def combine(self) -> Combiner | None:
        """How tasks' gradients of shared parameters become one; None: their mean."""
        settings = self.config.gradients
        name = settings.combine if self.combiner == "mean" else self.combiner
        return functools.partial(COMBINERS[name], settings) if name != "mean" else None
