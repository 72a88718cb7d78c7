"""The pytrees and spaces that pass between suites, algorithms and the runner.

Axes, always in this order: [S]eeds, [T]ime, [M] tasks, [N] envs of a task, features.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Variables = dict[str, Any]
"""Collections: those named in `SHARED`, and those whose leaves lead with M: `task` and, with
PopArt, `popart`."""

SHARED = ("shared", "prior")
"""Collections without a task axis; `prior` is there where a prior is learned."""


class Discrete(NamedTuple):
    """`n` actions, integers 0 … n-1."""

    n: int

    @property
    def outputs(self) -> int:
        return self.n


class Continuous(NamedTuple):
    """`size` real actions; a policy acts in [-1, 1] and the suite maps that to its bounds."""

    size: int

    @property
    def outputs(self) -> int:
        return self.size


def is_shared(path: tuple[Any, ...]) -> bool:
    """Whether a leaf of an `Agent` at that path has no task axis."""
    return next((entry.key for entry in path if hasattr(entry, "key")), SHARED[0]) in SHARED


class Step(NamedTuple):
    """What a suite returns for one transition of every env; all leaves lead with [M, N].

    `obs` is the next observation after any automatic reset, `final_obs` the one before it:
    the two differ only where an episode ended. `success` is None where the suite has none.
    """

    obs: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_obs: jax.Array
    success: jax.Array | None = None


class Episode(struct.PyTreeNode):
    """Each env's episode so far, [M, N]: undiscounted return, steps, success at any step."""

    total: jax.Array
    length: jax.Array
    success: jax.Array


class Transition(NamedTuple):
    """One step of a rollout; stacked by scan, leaves lead with [T, M, N]."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_obs: jax.Array
    discounted_return: jax.Array
    episode: Episode


class Agent(struct.PyTreeNode):
    """What learns: the methods' part of a TrainState.

    `memory` is what the method steers its penalty by between updates, `target` a slower copy of
    the variables where an algorithm keeps one, else {}. Collections other than `SHARED` lead
    with M, in the optimiser's moments as in the variables.
    """

    variables: Variables
    optimizer: Any
    memory: Any
    target: Variables


class World(struct.PyTreeNode):
    """The envs and what is known of their episodes; every leaf leads with [M, N].

    `done`: whether the last step ended an episode; `acting_keys`: those of held draws of weights.
    """

    env: Any
    obs: jax.Array
    episode: Episode
    discounted_return: jax.Array
    done: jax.Array
    acting_keys: jax.Array


class TrainState(struct.PyTreeNode):
    """Everything training needs to go on, for one seed (the learner adds the leading S).

    Every leaf of `world`, `stats` (running statistics) and `own` (what the algorithm keeps:
    replay, duals) leads with M. Checkpoints hold all of it, so a resumed run is bit-identical to
    one never stopped.
    """

    agent: Agent
    world: World
    stats: dict[str, Any]
    own: Any
    scalars: dict[str, jax.Array]
    key: jax.Array
    update: jax.Array


class Player(struct.PyTreeNode):
    """A trained policy: the variables that act, and the statistics their observations need."""

    variables: Variables
    stats: dict[str, Any]


LEFT_OUT = "leave_out"
"""Among a state's scalars where a task is left out: its index."""


def present(scalars: dict[str, jax.Array], num_tasks: int) -> jax.Array | None:
    """Which of M tasks learn, [M]: all but the one left out; None where none is.

    Whatever is a sum, a mean or a choice over tasks asks for this, and is the program that it
    always was where the answer is None.
    """
    if LEFT_OUT not in scalars:
        return None
    return jnp.arange(num_tasks) != scalars[LEFT_OUT]


def num_present(scalars: dict[str, jax.Array], num_tasks: int) -> jax.Array | int:
    """How many tasks learn: M, or a number of the compiled program."""
    mask = present(scalars, num_tasks)
    return num_tasks if mask is None else mask.sum()


def lead(vector: jax.Array, like: jax.Array) -> jax.Array:
    """[M] as [M, 1, ...], with the axes of `like` [M, ...]: what is one number for each task."""
    return vector.reshape(-1, *(1,) * (like.ndim - 1))
