"""Many seeds as one program: init one after another, updates vmapped and scanned in chunks."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax import methods, suites
from varshare_jax.algorithms import ALGORITHMS, preconditioner
from varshare_jax.algorithms.base import Problem
from varshare_jax.algorithms.descent import init_agent, of_present
from varshare_jax.algorithms.normalization import initial_stats, with_pooled
from varshare_jax.algorithms.rollout import initial_world
from varshare_jax.config import Config
from varshare_jax.errors import UserError
from varshare_jax.methods import capacity
from varshare_jax.methods.base import Metrics
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.settings import flag_value, leaves
from varshare_jax.suites.base import Suite
from varshare_jax.suites.compiling import run_once
from varshare_jax.types import (
    LEFT_OUT,
    Continuous,
    Discrete,
    TrainState,
    is_shared,
    lead,
    present,
)

_ENVS_IN_STEP = 64
_MOST_UPDATES = 2**31 - 1  # in int32
_FLOAT, _METRICS = 4, 10  # bytes of a number; metrics that every method has at least
Part = tuple[int | None, int | None]
"""From which of the members to which, as a slice has them."""
WHOLE: Part = (None, None)


def make_problem(config: Config, *, here: bool = True, part: Part = WHOLE) -> Problem:
    """Looks up suite, algorithm and method; raises UserError for what cannot work together.

    Whether it fits the memory is checked where it is to be trained: `here`, `part` of its members.
    """
    config = suites.name_folds(config).validate()
    suite, algorithm = suites.make(config.suite, config), ALGORITHMS[config.algorithm]
    algorithm.check_suite(suite)
    _check_sizes(config, suite)
    # The config itself stays as given: what a run stores must lead to the same widths again.
    sized = config
    if config.capacity in capacity.COUNTS:
        sized = capacity.match(config, functools.partial(make_network, suite=suite))
    problem = Problem(config, suite, make_network(sized, suite), algorithm)
    preconditioner.check(problem)
    if here:
        check_memory(_memory(problem), len(config.members()[slice(*part)]))
    if problem.num_updates > _MOST_UPDATES:
        raise UserError(f"--total_steps={config.total_steps}: is {problem.num_updates} updates; "
                        f"{_MOST_UPDATES} can be counted")
    return problem


def _check_sizes(config: Config, suite: Suite) -> None:
    """Raises UserError for what tasks with unlike observations or actions cannot have."""
    if isinstance(suite.action_space, Continuous) and len(set(suite.action_sizes)) > 1:
        raise UserError(f"--suite={suite.name}: its tasks have actions of {suite.action_sizes} "
                        "numbers; only discrete actions may differ in number")
    if config.adapt.start == "mean" and not suite.alike:
        raise UserError(f"--adapt.start=mean: tasks of {suite.name} differ in observations or "
                        "actions, and so in what their parameters stand for; use fresh")


def check_memory(parts: Mapping[str, float], seeds: int) -> None:
    """Raises UserError before the compilation of what could not run after it.

    `parts`: bytes of one seed, about, by the flag and value that they grow with; the largest is
    named.
    """
    device = jax.local_devices()[0]
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit", math.inf)
        available = limit * jax.local_device_count()
    needed, largest = sum(parts.values()) * seeds, max(parts, key=parts.__getitem__)
    if needed > available:
        many = f"{seeds} seeds need" if seeds > 1 else "one seed needs"
        raise UserError(f"--{largest}: too much: {many} about {needed / 2**30:,.1f} GiB, "
                        f"{parts[largest] * seeds / 2**30:,.1f} GiB of them by this setting; the "
                        f"device has {available / 2**30:,.1f} GiB")


def _memory(problem: Problem) -> dict[str, float]:
    """What training takes, for `check_memory`: the large things only, a lower bound."""
    config, suite, name = problem.config, problem.suite, problem.algorithm.name
    tasks, envs, settings = *problem.shape, problem.settings
    one_env = suite.bytes_per_env()
    step = _FLOAT * (3 * suite.observation_size + suite.action_space.outputs + 10)
    weights = sum(math.prod(leaf.shape) * _FLOAT for leaf in jax.tree.leaves(
        jax.eval_shape(problem.network.init, jax.random.key(0))))
    steps = getattr(settings, "epochs", 1) * getattr(settings, "minibatches", 1)
    chunk = min(config.run.log_every, problem.num_updates)
    parts = {
        f"{name}.num_envs": tasks * envs * (one_env + settings.rollout_length * step),
        f"{name}.replay_size": problem.algorithm.bytes(config, suite),
        "network.hidden": 4 * weights,  # gradients and Adam's two moments beside them
        f"{config.method}.draws": problem.network.method.draws.count * weights,
        "run.eval_episodes": tasks * config.run.eval_episodes * one_env,
        "run.log_every": chunk * tasks * _FLOAT * _METRICS,
        f"{name}.epochs": steps * tasks * _FLOAT * _METRICS,
        f"{name}.gradient_steps": getattr(settings, "gradient_steps", 0) * tasks * _FLOAT
        * _METRICS}
    known = {leaf.name: flag_value(leaf.value) for leaf in leaves(config)}
    known[f"{name}.num_envs"] += f" × rollout_length={settings.rollout_length}"
    return {f"{flag}={known[flag]}": size for flag, size in parts.items() if flag in known}


def make_network(config: Config, suite: Suite) -> MultiTaskNetwork:
    """The networks of a config's algorithm, as its method lifts them over tasks."""
    method = methods.make(config, suite.num_tasks)
    space, sizes = suite.action_space, suite.action_sizes
    heads = ALGORITHMS[config.algorithm].heads(space, config)
    unlike = isinstance(space, Discrete) and min(sizes) < space.n
    return MultiTaskNetwork(method, suite.observation_size, heads,
                            action_sizes=sizes if unlike else ())


@dataclasses.dataclass(frozen=True)
class Learner:
    """The pure functions of training. `init` and `update` are for one seed.

    `update` may be jitted, vmapped over seeds and scanned by whoever writes their own loop;
    `init_seeds` and `update_many` are how the runner does it, with `part` of the members where
    several processes share them.
    """

    problem: Problem
    part: Part = WHOLE

    @classmethod
    def make(cls, config: Config, part: Part = WHOLE) -> "Learner":
        """Of a config, `part` of whose members are trained in this process."""
        return cls(make_problem(config, part=part), part)

    def init(self, key: jax.Array, scalars: dict[str, jax.Array] | None = None) -> TrainState:
        """State of one seed; `scalars` replaces some of the config's traced values.

        One program: operation by operation it would be more than a hundred small ones.
        """
        return self._init(key, scalars)

    @functools.partial(jax.jit, static_argnums=0)
    def _init(self, key: jax.Array, scalars: dict[str, jax.Array] | None) -> TrainState:
        problem = self.problem
        values = self._scalars(problem.config) | (scalars or {})
        scalars = {name: jnp.float32(value) for name, value in values.items()}
        key, network_key, env_key, acting_key, own_key = jax.random.split(key, 5)
        tasks = problem.suite.num_tasks
        state = TrainState(
            agent=init_agent(problem, network_key, scalars),
            world=initial_world(problem, env_key, acting_key),
            stats={"obs": initial_stats(tasks, problem.suite.observation_size),
                   "returns": initial_stats(tasks)},
            own=problem.algorithm.init(problem, own_key), scalars=scalars, key=key,
            update=jnp.zeros((), jnp.int32))
        _check_axes(state, tasks)
        # Later states have no weak types: with them the first update would be another program.
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

    def update(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One iteration of one seed: a rollout, then learning; metrics [M].

        A task that is left out keeps what is its own, and its metrics are NaN.
        """
        after, metrics = self.problem.algorithm.update(self.problem, state)
        learns = present(state.scalars, self.problem.suite.num_tasks)
        if learns is None:
            return after, metrics
        return without(self.problem, learns, state, after), of_present(learns, metrics)

    def init_seeds(self, scalars: dict[str, jax.Array] | None = None) -> TrainState:
        """States of all S members of the program, leaves [S, ...]; `scalars` holds vectors [S].

        Sequential on purpose: a QR batched over seeds deadlocks XLA's CPU thread pool.
        """
        members = self.problem.config.members()[slice(*self.part)]
        keys = jnp.stack([jax.random.key(member.seed) for member in members])
        each = list(map(self._scalars, members))
        vectors = {name: jnp.float32([values[name] for values in each])
                   for name in each[0]} | (scalars or {})
        return self.start(keys, vectors)

    def start(self, keys: jax.Array, scalars: dict[str, jax.Array]) -> TrainState:
        """`init` of members with keys and scalars [S], leaves [S, ...].

        Called, rather than traced, it is compiled without optimisations: it runs once.
        """
        if isinstance(keys, jax.core.Tracer):  # XLA's options are a whole program's
            return self._start(keys, scalars)
        return self._start_at_once(keys, scalars)

    def _start(self, *members: Any) -> TrainState:
        return jax.lax.map(lambda member: self.init(*member), members)

    @functools.cached_property
    def _start_at_once(self) -> Callable[..., TrainState]:
        return jax.jit(self._start, compiler_options=run_once())

    def _scalars(self, member: Config) -> dict[str, float]:
        """The traced values of a config, and which task it leaves out: the first of several."""
        if member.leave_out == "none":
            return member.scalars()
        left_out = member.leave_out.partition(",")[0]
        return member.scalars() | {LEFT_OUT: self.problem.suite.task_names.index(left_out)}

    def update_many(self, state: TrainState, count: jax.Array) -> tuple[TrainState, Metrics]:
        """`count` ≤ chunk updates of all seeds; metrics [S, chunk, M], NaN past `count`.

        The count is traced: a shorter last chunk runs the same compiled program. A vector [S] is
        each seed's own. Small problems run all seeds in step; large ones (on a CPU) a few at a
        time, which stay in its caches.
        """
        seeds = len(state.update)
        at_once = self.seeds_at_once(seeds)
        run = functools.partial(self._run_chunk, apart=bool(jnp.ndim(count)))
        if at_once == seeds:  # a loop of one step would be compiled as any other
            return run(state, count)
        parts = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]),
                             (state, jnp.broadcast_to(count, seeds)))
        done = jax.lax.map(lambda part: run(*part), parts)
        return jax.tree.map(lambda x: x.reshape(seeds, *x.shape[2:]), done)

    def seeds_at_once(self, seeds: int) -> int:
        """How many of the `seeds` on one device are vmapped together.

        All on an accelerator; else a divisor, so that no remainder is compiled as a second program.
        """
        if jax.default_backend() != "cpu":
            return seeds
        envs = math.prod(self.problem.shape)
        fit = max(1, _ENVS_IN_STEP // envs)
        return max(d for d in range(1, seeds + 1) if seeds % d == 0 and d <= fit)

    def _run_chunk(self, state: TrainState, count: jax.Array,
                   apart: bool) -> tuple[TrainState, Metrics]:
        """`update_many` of seeds that run in step, unless they stop `apart`."""
        seeds, problem = len(state.update), self.problem
        chunk = min(problem.config.run.log_every, problem.num_updates)
        update = jax.jit(jax.vmap(self.update))  # traces once for the shapes and the loop
        shapes = jax.eval_shape(update, state)[1]
        metrics = jax.tree.map(
            lambda m: jnp.full((seeds, chunk, *m.shape[1:]), jnp.nan, m.dtype), shapes)

        def body(i, carry):
            state, metrics = carry
            after, new = update(state)
            if apart and seeds > 1:
                runs = i < count
                after = jax.tree.map(lambda x, old: jnp.where(lead(runs, x), x, old), after, state)
                new = jax.tree.map(lambda m: jnp.where(lead(runs, m), m, jnp.nan), new)
            return after, jax.tree.map(
                lambda buffer, m: jax.lax.dynamic_update_index_in_dim(buffer, m, i, 1),
                metrics, new)

        return jax.lax.fori_loop(0, jnp.max(count), body, (state, metrics))


def without(problem: Problem, learns: jax.Array, before: TrainState,
            after: TrainState) -> TrainState:
    """`after` an update of the tasks that `learns` [M] names.

    What belongs to others stays as it was `before`, and their running statistics are those of the
    tasks that learn, taken together, so that they can be played: what is known of a task that was
    never seen. They count as one rollout's, and would soon give way to its own. Where tasks are
    not alike nothing is known of it, and they stay as well.
    """
    def kept(path: tuple[Any, ...], old: jax.Array, new: jax.Array) -> jax.Array:
        return new if is_shared(path) else jnp.where(lead(learns, new), new, old)

    old, new = before.agent, after.agent
    agent = jax.tree_util.tree_map_with_path(kept, old.replace(memory={}), new.replace(memory={}))
    rollout = problem.config.steps_per_task
    if problem.suite.alike:
        stats = {name: with_pooled(x, learns, rollout) for name, x in after.stats.items()}
    else:
        stats = jax.tree_util.tree_map_with_path(kept, before.stats, after.stats)
    return after.replace(agent=agent.replace(memory=new.memory), stats=stats)


def _check_axes(state: TrainState, num_tasks: int) -> None:
    """Devices split these by their first axis, so every leaf must have it."""
    parts: dict[str, Any] = {"world": state.world, "stats": state.stats, "own": state.own}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        if leaf.shape[:1] != (num_tasks,):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"TrainState.{name} has shape {leaf.shape}; it must lead with the "
                             f"{num_tasks} tasks")
