"""What a learning algorithm is, and what it is given."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms.settings import AlgorithmConfig
from varshare_jax.methods.base import Metrics, Scalars
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.networks.network import Heads
from varshare_jax.suites.base import Suite
from varshare_jax.types import Agent, Continuous, Discrete, Player, TrainState, Variables


class Algorithm(abc.ABC):
    """How a policy learns from what it does; one class without state of its own.

    Everything that makes learning multi-task (draws of weights, penalties, combining of tasks'
    gradients) is in `descent`, so an algorithm defines losses per task and when they step.
    """

    settings: ClassVar[type[AlgorithmConfig]]
    """Its section, whose name is the algorithm's."""
    acts_by: ClassVar[tuple[str, ...]] = ("actor",)
    """The networks whose outputs make the policy."""
    keeps_target: ClassVar[bool] = False
    """Whether the agent has a target copy of its variables."""

    @property
    def name(self) -> str:
        return self.settings.section

    @abc.abstractmethod
    def heads(self, space: Discrete | Continuous, config: Any) -> Heads:
        """The networks of one task, by the whole tree of settings.

        Raises UserError for networks that actions of this space cannot have.
        """

    @abc.abstractmethod
    def init(self, problem: "Problem", key: jax.Array) -> Any:
        """What the algorithm keeps for itself (`TrainState.own`); leaves lead with M."""

    @abc.abstractmethod
    def update(self, problem: "Problem", state: TrainState) -> tuple[TrainState, Metrics]:
        """One iteration: T steps of every env, then learning. Metrics are per task, [M].

        `loss` is finite from the first update on (0 where nothing was learned yet); `return`,
        `length`, `success` are means over the `episodes` that ended, NaN where none did.
        """

    @abc.abstractmethod
    def samples(self, problem: "Problem") -> int:
        """The n of the ELBO: how many samples of a task its posterior is to explain."""

    def collections(self, problem: "Problem") -> Variables:
        """Variables beside the networks' that learn by gradient; leaves lead with M."""
        return {}

    def delays(self, settings: Any) -> Mapping[str, int]:
        """Sides of the network that move only in every k-th gradient step, and k."""
        return {}

    def acting(self, agent: Agent) -> Variables:
        """The variables that act."""
        return agent.variables

    def exploration(self, problem: "Problem", state: TrainState) -> Any:
        """What `distribution` needs in training beside the networks' outputs."""
        return None

    def distribution(self, outputs: Mapping[str, Any], exploration: Any) -> distrax.Distribution:
        """The policy from outputs of `acts_by`; without `exploration` that of evaluations."""
        return outputs["actor"]

    def bytes(self, config: Any, suite: Suite) -> int:
        """Bytes that one seed keeps beside networks and envs: replay."""
        return 0

    def check(self, config: Any) -> None:  # noqa: B027, nothing to check by default
        """Raises UserError where settings of several sections do not fit together."""

    def check_suite(self, suite: Suite) -> None:  # noqa: B027
        """Raises UserError for a suite that this algorithm cannot learn."""


class Problem(NamedTuple):
    """Static: nothing in here is traced."""

    config: Any
    suite: Suite
    network: MultiTaskNetwork
    algorithm: Algorithm

    @property
    def settings(self) -> Any:
        """The section of the algorithm."""
        return getattr(self.config, self.algorithm.name)

    def scalar(self, scalars: Scalars, name: str) -> jax.Array:
        """A traced setting of the algorithm."""
        return scalars[f"{self.algorithm.name}.{name}"]

    @property
    def num_updates(self) -> int:
        return self.config.num_updates(self.suite.num_tasks)

    @property
    def samples(self) -> int:
        """The n of the ELBO."""
        return self.algorithm.samples(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N)."""
        return self.suite.num_tasks, self.settings.num_envs

    def player(self, state: TrainState) -> Player:
        """Who plays after training so far."""
        return Player(self.algorithm.acting(state.agent), state.stats)

    def learning_rate(self, state: TrainState) -> jax.Array:
        """The rate of the current update."""
        rate = self.scalar(state.scalars, "learning_rate")
        if not self.settings.anneal_learning_rate:
            return rate
        return rate * (1 - state.update / self.num_updates)


def per_task(x: jax.Array) -> jax.Array:
    """Means over all axes but the first: [M, ...] -> [M]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
