"""A suite: M tasks stepped in parallel, of one observation and one action space.

Tasks whose spaces are unlike are padded to one: `observation_sizes`, `action_sizes`.
"""

import abc
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.types import Continuous, Discrete, Step


class ScoreRange(NamedTuple):
    """Returns [M] that a report counts as 0 and as 1, where scores of tasks are normalised.

    `random`: mean return of uniformly random actions, measured; `target`: what solving it takes.
    """

    random: tuple[float, ...]
    target: tuple[float, ...]


class Suite(abc.ABC):
    """M tasks × N environments behind two pure functions.

    Attributes: `name`, `version` (changes whenever results could), `task_names` [M],
    `observation_size` D, `action_space`, `horizon` (steps after which every episode has
    ended), `has_success`, `reference` (the implementation that this one must agree with),
    `compiler_options` (of XLA, for whatever steps this suite), `tracing` (if set, suites that
    compile for minutes tell it how far JAX's tracing has come), `score_range` (None where it is not
    known), `task_parameters` (what tasks differ in, physical quantities [M] by name).
    """

    name: str
    version: str
    task_names: tuple[str, ...]
    observation_size: int
    action_space: Discrete | Continuous
    horizon: int
    has_success: ClassVar[bool] = False
    reference: str
    score_range: ScoreRange | None = None
    compiler_options: Mapping[str, Any] = MappingProxyType({})
    tracing: Callable[[str], None] | None = None
    task_parameters: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    _tasks: Sequence[Any] = ()  # the rows of a table of tasks, where there is one

    @property
    def num_tasks(self) -> int:
        return len(self.task_names)

    @functools.cached_property
    def observation_sizes(self) -> tuple[int, ...]:
        """Entries of each task's observations, [M], all D unless set; zeros follow them up to D."""
        return (self.observation_size,) * self.num_tasks

    @functools.cached_property
    def action_sizes(self) -> tuple[int, ...]:
        """Actions of each task, [M], all of the space unless set; only the first ones are taken."""
        return (self.action_space.outputs,) * self.num_tasks

    def divisible(self, seeds: int) -> tuple[int, int]:
        """(seeds, tasks) that XLA may split over devices; 1 for what must stay together."""
        return seeds, self.num_tasks

    @property
    def alike(self) -> bool:
        """Whether observations and actions of all tasks have the same sizes."""
        return len(set(zip(self.observation_sizes, self.action_sizes, strict=True))) == 1

    def describe(self, tasks: Sequence[Any], quantities: Mapping[str, str], target: float) -> None:
        """Sets what a table of tasks tells: `score_range`, if all their `random_return` are known,
        and `task_parameters`, their fields `quantities` by the labels that these have there.
        """
        random = tuple(task.random_return for task in tasks)
        if None not in random:
            self.score_range = ScoreRange(random, (target,) * len(tasks))
        self.task_parameters = {label: tuple(getattr(task, field) for task in tasks)
                                for field, label in quantities.items()}

    def choose(self, tasks: Sequence[int]) -> Self:
        """The suite of these of its tasks alone, in the order given, padded as they were.

        Whoever keeps more of its tasks than stands here cuts that as well.
        """
        chosen = copy.copy(self)
        chosen.task_names = tuple(self.task_names[m] for m in tasks)
        for sizes in ("observation_sizes", "action_sizes"):
            setattr(chosen, sizes, tuple(getattr(self, sizes)[m] for m in tasks))
        chosen._tasks = tuple(self._tasks[m] for m in tasks) if self._tasks else ()
        if known := vars(self).get("score_range"):
            chosen.score_range = ScoreRange(*(tuple(x[m] for m in tasks) for x in known))
        chosen.task_parameters = {name: tuple(x[m] for m in tasks)
                                  for name, x in self.task_parameters.items()}
        return chosen

    def bytes_per_env(self) -> float:
        """Memory that one env takes, the mean over tasks, for estimates before compiling."""
        leaves = jax.tree.leaves(jax.eval_shape(
            lambda: self.reset(jax.random.split(jax.random.key(0), (self.num_tasks, 1)))))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / self.num_tasks

    def gymnasium_env(self, task: int) -> Any:
        """The reference of one task as a `gymnasium.Env` that takes this suite's actions.

        Raises UserError where there is none. `info["success"]` tells success, if the suite has it.
        """
        raise UserError(f"--engine=gymnasium: {self.name} has no counterpart in Gymnasium")

    def render(self, state: Any, task: int) -> np.ndarray:
        """A picture of the first env of a task, RGB uint8 [H, W, 3]; `state` as from `step`.

        Raises UserError where the suite draws nothing.
        """
        raise UserError(f"{self.name} has no pictures: its suite does not implement `render`")

    @abc.abstractmethod
    def reset(self, keys: jax.Array) -> tuple[Any, jax.Array]:
        """keys [M, N] -> state (leaves lead with [M, N]), observations [M, N, D]."""

    def begin(self, keys: jax.Array) -> tuple[Any, jax.Array]:
        """As `reset`, where training begins: suites whose episodes all last equally long may be in
        the midst of them, lest the rollouts of all envs show the same part of an episode."""
        return self.reset(keys)

    @abc.abstractmethod
    def step(self, keys: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        """One step of every env; ended episodes start anew.

        keys [M, N], fresh ones at every step; action [M, N] (discrete) or [M, N, A].
        """
