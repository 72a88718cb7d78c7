"""What a method of sharing parameters between tasks is, and its lifting over tasks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.config import Config
from varshare_jax.errors import UserError
from varshare_jax.gradients import COMBINERS, Combiner
from varshare_jax.networks.actor_critic import HEADS, ActorCritic, make_critic
from varshare_jax.networks.critics import CategoricalCritic, ScalarCritic
from varshare_jax.networks.torsos import TORSOS
from varshare_jax.types import Continuous, Discrete, Variables
from varshare_jax.variational.control import Measured
from varshare_jax.variational.gaussian import is_gaussian

Scalars = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Method:
    """How one task's network is composed of shared parameters and the task's own.

    The network itself knows nothing of sharing. `split` makes the two collections from a freshly
    initialised network, `compose` gives one task its parameters; the functions below them
    default to doing nothing. Everything is written for one task and lifted by
    `MultiTaskNetwork`.
    """

    config: Config
    num_tasks: int
    name: ClassVar[str]
    shares: ClassVar[bool] = True
    """Whether the collection `shared` holds anything."""
    combines_by: ClassVar[str] = "mean"
    """The combiner that belongs to the method, else "mean" and the config decides."""

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

    def penalty(self, task: Params, terms: Any, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """What one task pays for its parameters: scalar loss, scalar metrics."""
        return jnp.zeros(()), {}

    def init_prior(self, task: Params, scalars: Scalars) -> Params:
        """Parameters of the penalty that learn with the others, the collection `prior`."""
        return {}

    def init_control(self, task: Params, scalars: Scalars) -> Any:
        """State of what steers the penalty between updates: `TrainState.control`."""
        return {}

    def terms(self, variables: Variables, control: Any, scalars: Scalars) -> Any:
        """What the tasks' penalties read beside their parameters, leaves [M, ...]."""
        return {}

    def steer(self, control: Any, variables: Variables, measured: Measured,
              scalars: Scalars) -> tuple[Any, Metrics]:
        """The next `control` after an update; metrics [M]."""
        return control, {}

    def weigh(self, losses: jax.Array, scalars: Scalars) -> jax.Array:
        """All tasks' losses [M] as they enter the update."""
        return losses

    def after_update(self, variables: Variables, losses: jax.Array, scalars: Scalars,
                     key: jax.Array) -> Variables:
        """Changes variables after an iteration in which tasks had the mean `losses` [M]."""
        return variables

    def torso(self) -> nn.Module:
        """The part of the network that turns observations into features."""
        settings = self.config.network
        return TORSOS[settings.torso](settings, self.config.varshare.estimator)

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
        if self.combines_by not in ("mean", chosen) and chosen != "mean":
            raise UserError(f"--gradients.combine={chosen}: method {self.name} combines by "
                            f"{self.combines_by}; use --method=hard_sharing")

    @property
    def combine(self) -> Combiner | None:
        """How tasks' gradients of shared parameters become one; None: their mean."""
        settings = self.config.gradients
        name = settings.combine if self.combines_by == "mean" else self.combines_by
        return functools.partial(COMBINERS[name], settings) if name != "mean" else None

    # The three below decide which weights act and learn; deterministic methods ignore them.
    acts_with_sample: ClassVar[bool] = False
    learns_with_sample: ClassVar[bool] = False
    draws_per_example: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class MultiTaskNetwork:
    """A method's network lifted over M tasks.

    `shared` variables are broadcast, `task` variables and data are mapped: JAX then sums every
    task's gradient into `shared` and gives each task its own. With `shared_axis=0` every task
    has a copy of `shared` [M, ...], whose gradients stay apart.
    """

    method: Method
    observation_size: int
    action_space: Discrete | Continuous
    shared_axis: int | None = None

    @property
    def num_tasks(self) -> int:
        return self.method.num_tasks

    @property
    def module(self) -> ActorCritic:
        """The network of one task."""
        config = self.method.config
        return ActorCritic(self.action_space, config.network, self.method.torso,
                           config.varshare.estimator)

    @property
    def critic(self) -> ScalarCritic | CategoricalCritic:
        """What the outputs of the network's critic mean."""
        return make_critic(self.method.config.network)

    def init(self, key: jax.Array) -> Variables:
        """Variables for all tasks; each task's own are drawn with its own key.

        Tasks are initialised one after another: a batched QR (orthogonal initialisers)
        deadlocks XLA's CPU thread pool.
        """
        size = self.observation_size + self.method.context_size

        def one(key):
            params_key, split_key = jax.random.split(key)
            params = self.module.init({"params": params_key}, jnp.zeros((1, size)))["params"]
            return self.method.split(params, split_key)

        shared, task = jax.lax.map(one, jax.random.split(key, self.num_tasks))
        return {"shared": jax.tree.map(lambda x: x[0], shared), "task": task}

    def policy(self, variables: Variables, obs: jax.Array,
               noise: jax.Array | None = None) -> distrax.Distribution:
        """Action distributions: obs [M, ..., D] -> batch shape [M, ...]."""
        return self._apply(ActorCritic.policy, variables, obs, noise)

    def value(self, variables: Variables, obs: jax.Array) -> jax.Array:
        """State values under the mean weights: [M, ..., D] -> [M, ...]."""
        return self.critic.value(self._apply(ActorCritic.critic_outputs, variables, obs, None))

    def policy_and_critic(self, variables: Variables, obs: jax.Array,
                          noise: jax.Array | None = None):
        """Action distributions and the critic's outputs [M, ..., A].

        `noise` is a key for per-example estimators.
        """
        return self._apply(ActorCritic.__call__, variables, obs, noise)

    def sample(self, variables: Variables, key: jax.Array) -> Variables:
        """One draw of every task's weights (the same variables if the method has no noise)."""
        keys = jax.random.split(key, self.num_tasks)
        return variables | {"task": jax.vmap(self.method.sample)(variables["task"], keys)}

    def penalty(self, variables: Variables, scalars: Scalars,
                control: Any = None) -> tuple[jax.Array, Metrics]:
        """Each task's penalty [M] and metrics, each [M]; `control` is that of the TrainState."""
        terms = self.method.terms(variables, control or {}, scalars)
        pay = jax.vmap(lambda task, terms, _: self.method.penalty(task, terms, scalars))
        return pay(variables["task"], terms, jnp.arange(self.num_tasks))

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
        trunk = {name: branch for name, branch in task.items() if name not in HEADS}
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

    def _tasks(self, variables: Variables) -> tuple[Params, Params, jax.Array]:
        return variables["shared"], variables["task"], jnp.arange(self.num_tasks)

    def _over_tasks(self, function: Callable, *axes: int | None) -> Callable:
        return jax.vmap(function, in_axes=(self.shared_axis, 0, 0, *axes))

    def _apply(self, method: Callable, variables: Variables, obs: jax.Array,
               noise: jax.Array | None):
        def one(shared, task, index, x, key):
            params = self.method.compose(shared, task, index)
            rngs = None if key is None else {"noise": key}
            return self.module.apply({"params": params}, x, rngs=rngs, method=method)

        keys = None if noise is None else jax.random.split(noise, self.num_tasks)
        lifted = self._over_tasks(one, 0, None if keys is None else 0)
        return lifted(*self._tasks(variables), obs, keys)
