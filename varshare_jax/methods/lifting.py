"""A method's network lifted over M tasks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.methods.base import Method, Metrics, Params, Scalars
from varshare_jax.networks.heads import action_size, is_head
from varshare_jax.networks.network import Heads, TaskNetwork
from varshare_jax.types import Variables
from varshare_jax.variational.gaussian import is_gaussian


@dataclasses.dataclass(frozen=True)
class MultiTaskNetwork:
    """The networks `heads` of M tasks.

    `shared` variables are broadcast, `task` variables and data are mapped: JAX then sums every
    task's gradient into `shared` and gives each task its own. With `shared_axis=0` every task
    has a copy of `shared` [M, ...], whose gradients stay apart. `action_sizes` [M] are how many of
    the heads' discrete actions tasks have; (): all.
    """

    method: Method
    observation_size: int
    heads: Heads
    shared_axis: int | None = None
    action_sizes: tuple[int, ...] = ()

    @property
    def num_tasks(self) -> int:
        return self.method.num_tasks

    @property
    def module(self) -> TaskNetwork:
        """The network of one task."""
        one_trunk = self.method.config.network.trunk == "shared"
        return TaskNetwork(self.heads, one_trunk, self.method.torso, self.method.draws.estimator)

    def init(self, key: jax.Array) -> Variables:
        """Variables for all tasks; each task's own are drawn with its own key.

        Tasks are initialised one after another: a batched QR (orthogonal initialisers)
        deadlocks XLA's CPU thread pool.
        """
        size = self.observation_size + self.method.context_size
        obs = jnp.zeros((1, size))
        action = jnp.zeros((1, max(action_size(head) for _, head in self.heads)))

        def one(key):
            params_key, split_key = jax.random.split(key)
            params = self.module.init({"params": params_key}, obs, action=action)["params"]
            return self.method.split(params, split_key)

        shared, task = jax.lax.map(one, jax.random.split(key, self.num_tasks))
        return {"shared": jax.tree.map(lambda x: x[0], shared), "task": task}

    def apply(self, variables: Variables, obs: jax.Array, *names: str,
              noise: jax.Array | None = None, action: jax.Array | None = None) -> dict[str, Any]:
        """Outputs of the networks named (all by default), by name: [M, ..., D] -> [M, ...].

        Means of random weights act, unless `noise`, a key, makes layers draw for each example.
        Networks that value continuous actions read `action` [M, ..., A].
        """
        def one(shared, task, index, x, action, key, count):
            params = self.method.compose(shared, task, index)
            rngs = None if key is None else {"noise": key}
            return self.module.apply({"params": params}, x, names, action, count, rngs=rngs)

        keys = None if noise is None else jax.random.split(noise, self.num_tasks)
        others = action, keys, self._num_actions()
        given = (None if x is None else 0 for x in others)
        return self._over_tasks(one, 0, *given)(*self._tasks(variables), obs, *others)

    def apply_alone(self, params: Params, task: jax.Array, obs: jax.Array,
                    *names: str) -> dict[str, Any]:
        """Outputs of one task's network, [B, D] -> [B, ...]: `params` are its part of `merge`."""
        counts = self._num_actions()
        outputs: Any = self.module.apply({"params": params}, obs, names,
                                         num_actions=None if counts is None else counts[task])
        return outputs

    def sample(self, variables: Variables, key: jax.Array) -> Variables:
        """One draw of every task's weights (the same variables if the method has no noise)."""
        keys = jax.random.split(key, self.num_tasks)
        return variables | {"task": jax.vmap(self.method.sample)(variables["task"], keys)}

    def penalty(self, variables: Variables, memory: Any, scalars: Scalars,
                samples: int) -> tuple[jax.Array, Metrics]:
        """Each task's penalty [M] and metrics, each [M]; `memory` is that of the Agent."""
        terms = self.method.terms(variables, memory, scalars)
        pay = jax.vmap(lambda task, terms, _: self.method.penalty(task, terms, scalars, samples))
        return pay(variables["task"], terms, jnp.arange(self.num_tasks))

    def curvature(self, variables: Variables, memory: Any, scalars: Scalars, samples: int) -> Any:
        """Curvatures [M, ...] that posteriors start from; None where σ is not to follow them."""
        terms = self.method.terms(variables, memory, scalars)
        if not terms:
            return None
        return jax.vmap(lambda task, terms: self.method.curvature(task, terms, scalars, samples))(
            variables["task"], terms)

    def settle(self, variables: Variables, curvature: Any, memory: Any, scalars: Scalars,
               samples: int) -> Params:
        """Every task's parameters with the σ that is best at these curvatures [M, ...]."""
        terms = self.method.terms(variables, memory, scalars)
        return jax.vmap(lambda task, h, terms: self.method.settle(task, h, terms, samples))(
            variables["task"], curvature, terms)

    def without_residuals(self, variables: Variables) -> Variables:
        """Variables under whose mean weights every task plays the shared network alone."""
        zero = jax.tree.map(jnp.zeros_like, variables["task"])
        return variables | {"task": zero}

    def merge(self, variables: Variables) -> Params:
        """Each task's composed mean parameters, leaves [M, ...]: all that inference needs."""
        return jax.tree.map(lambda leaf: leaf.mean if is_gaussian(leaf) else leaf,
                            self._over_tasks(self.method.compose)(*self._tasks(variables)),
                            is_leaf=is_gaussian)

    def task_vectors(self, variables: Variables) -> jax.Array:
        """What each task does to the shared weights, as vectors [M, P].

        Its own parameters, the means of random ones; output layers only where it has no others.
        P = 0 if tasks own nothing, or share nothing that would make their parameters comparable.
        """
        own = variables["task"] if variables["shared"] else {}
        task = jax.vmap(self.method.residual)(own) if own else {}  # vmap needs something to map
        trunk = {name: branch for name, branch in task.items() if not is_head(name)}
        leaves = jax.tree.leaves(trunk or task, is_leaf=is_gaussian)
        means = [leaf.mean if is_gaussian(leaf) else leaf for leaf in leaves]
        return jnp.concatenate([jnp.zeros((self.num_tasks, 0)),
                                *(x.reshape(self.num_tasks, -1) for x in means)], axis=1)

    def num_parameters(self, variables: Variables) -> dict[str, int]:
        """How many numbers one task's forward pass reads, and how many all tasks keep.

        `active`: in training; `merged`: in inference, once composed; `stored`: by all tasks.
        """
        shared, task, merged = (
            sum(x.size for x in jax.tree.leaves(tree))
            for tree in (variables["shared"], variables["task"],
                         jax.eval_shape(self.merge, variables)))
        return {"active": shared + task // self.num_tasks, "merged": merged // self.num_tasks,
                "stored": shared + task}

    def _num_actions(self) -> jax.Array | None:
        """How many discrete actions tasks have, [M]; None: all that the heads have."""
        return jnp.array(self.action_sizes) if self.action_sizes else None

    def _tasks(self, variables: Variables) -> tuple[Params, Params, jax.Array]:
        return variables["shared"], variables["task"], jnp.arange(self.num_tasks)

    def _over_tasks(self, function: Callable, *axes: int | None) -> Callable:
        return jax.vmap(function, in_axes=(self.shared_axis, 0, 0, *axes))
