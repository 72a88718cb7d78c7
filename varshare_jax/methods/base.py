"""What a method of sharing parameters between tasks is, and its lifting over tasks."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.config import Config
from varshare_jax.networks.actor_critic import ActorCritic
from varshare_jax.networks.layers import Parametrization
from varshare_jax.types import Continuous, Discrete, Variables
from varshare_jax.variational.gaussian import is_gaussian

Scalars = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """A network for one task plus at most three small functions.

    A subclass names its parametrization: which tensors live in the collection `shared` and
    which in `task`. The rest defaults to doing nothing.
    """

    config: Config
    name: ClassVar[str]

    def parametrization(self) -> Parametrization:
        """Where each parameter of the network lives."""
        raise NotImplementedError

    def sample(self, task: Any, key: jax.Array) -> Any:
        """Draws the random parameters of one task, returning a tree that acts as drawn."""
        return task

    def penalty(self, task: Any, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """What one task pays for its parameters: scalar loss, scalar metrics."""
        return jnp.zeros(()), {}

    # The three below decide which weights act and learn; deterministic methods ignore them.
    acts_with_sample: ClassVar[bool] = False
    learns_with_sample: ClassVar[bool] = False
    draws_per_example: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class MultiTaskNetwork:
    """A method's network lifted over M tasks.

    `shared` variables are broadcast, `task` variables and data are mapped: JAX then sums every
    task's gradient into `shared` and gives each task its own.
    """

    method: Method
    observation_size: int
    action_space: Discrete | Continuous
    num_tasks: int

    @property
    def module(self) -> ActorCritic:
        """The network of one task."""
        network = self.method.config.network
        return ActorCritic(self.action_space, self.method.parametrization(), network.hidden,
                           network.activation, network.initial_log_std)

    def init(self, key: jax.Array) -> Variables:
        """Variables for all tasks; each task's own are drawn with its own key.

        Tasks are initialised one after another: a batched QR (orthogonal initialisers)
        deadlocks XLA's CPU thread pool.
        """
        obs = jnp.zeros((1, self.observation_size))
        variables = jax.lax.map(lambda k: self.module.init({"params": k}, obs),
                                jax.random.split(key, self.num_tasks))
        shared = jax.tree.map(lambda x: x[0], variables.get("shared", {}))
        return {"shared": shared, "task": variables.get("task", {})}

    def policy(self, variables: Variables, obs: jax.Array,
               noise: jax.Array | None = None) -> distrax.Distribution:
        """Action distributions: obs [M, ..., D] -> batch shape [M, ...]."""
        return self._apply(ActorCritic.policy, variables, obs, noise)

    def value(self, variables: Variables, obs: jax.Array) -> jax.Array:
        """State values under the mean weights: [M, ..., D] -> [M, ...]."""
        return self._apply(ActorCritic.value, variables, obs, None)

    def policy_and_value(self, variables: Variables, obs: jax.Array,
                         noise: jax.Array | None = None):
        """Both of the above in one pass; `noise` is a key for per-example estimators."""
        return self._apply(ActorCritic.__call__, variables, obs, noise)

    def sample(self, variables: Variables, key: jax.Array) -> Variables:
        """One draw of every task's weights (the same variables if the method has no noise)."""
        keys = jax.random.split(key, self.num_tasks)
        return variables | {"task": jax.vmap(self.method.sample)(variables["task"], keys)}

    def penalty(self, variables: Variables, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Each task's penalty [M] and metrics, each [M]."""
        pay = jax.vmap(lambda task, _: self.method.penalty(task, scalars))
        return pay(variables["task"], jnp.arange(self.num_tasks))

    def task_vectors(self, variables: Variables) -> jax.Array:
        """What each task does to the shared weights, as vectors [M, P].

        Its own parameters, the means of random ones; output layers only where it has no others.
        P = 0 if tasks own nothing, or share nothing that would make their parameters comparable.
        """
        task = variables["task"] if variables["shared"] else {}
        trunk = {name: branch for name, branch in task.items()
                 if not name.endswith(("_head", "log_std"))}
        leaves = jax.tree.leaves(trunk or task, is_leaf=is_gaussian)
        means = [leaf.mean if is_gaussian(leaf) else leaf for leaf in leaves]
        return jnp.concatenate([jnp.zeros((self.num_tasks, 0)),
                                *(x.reshape(self.num_tasks, -1) for x in means)], axis=1)

    def num_parameters(self, variables: Variables) -> dict[str, int]:
        """`active`: read by one task's forward pass in training; `stored`: by all tasks."""
        shared, task = (sum(x.size for x in jax.tree.leaves(variables[collection]))
                        for collection in ("shared", "task"))
        return {"active": shared + task // self.num_tasks, "stored": shared + task}

    def _apply(self, method: Callable, variables: Variables, obs: jax.Array,
               noise: jax.Array | None):
        def one(task, x, key):
            rngs = None if key is None else {"noise": key}
            return self.module.apply({"shared": variables["shared"], "task": task}, x,
                                     rngs=rngs, method=method)

        keys = None if noise is None else jax.random.split(noise, self.num_tasks)
        return jax.vmap(one, in_axes=(0, 0, None if keys is None else 0))(
            variables["task"], obs, keys)
