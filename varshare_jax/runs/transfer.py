"""What a run that has left tasks out hands on to those that learn them.

A run of `--leave_out=all` has a fold for each task, whose shared parameters have never seen it. In
adaptation task k starts from those of fold k, of the same seed.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax import suites
from varshare_jax.algorithms.base import Problem
from varshare_jax.algorithms.preconditioner import init_moments
from varshare_jax.config import Config
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.methods.adapting import UNFREEZE, trains_at_first
from varshare_jax.runs import checkpoint
from varshare_jax.runs.folder import check_note, read_config
from varshare_jax.runs.monitoring import warn
from varshare_jax.settings import leaves
from varshare_jax.types import Agent, TrainState, lead

_FLAG = "--adapt.source"


class Source:
    """The folds of a run: its newest state, leaves [S₀, ...], and which of it a task starts from.

    Raises UserError for a folder that holds no such run, or nothing readable.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / "config.json").exists():
            raise UserError(f"{_FLAG}={folder}: not a run (no config.json in it)")
        self.config = read_config(_FLAG, folder)
        if self.config.leave_out == "none" or self.config.sweep:
            raise UserError(f"{_FLAG}={folder}: was not trained with --leave_out=all and without "
                            "--sweep")
        learner = Learner.make(suites.settle(self.config, required=False))
        self.problem, self.folds = learner.problem, self.config.leave_out.split(",")
        found = checkpoint.restore_newest(folder / "checkpoints",
                                          jax.eval_shape(learner.init_seeds), warn)
        if found is None:
            raise UserError(f"{_FLAG}={folder}: has no readable checkpoint yet")
        self.state, self.update = found
        check_note(_FLAG, folder, checkpoint.read_note(folder / "checkpoints", self.update),
                   self.config)

    def locate(self, config: Config, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Which tasks [M] of the source these are, and which members [S, M] left them out.

        A member's fold and seed are those of `config`. Raises UserError for a task that the source
        has learned and a seed that it lacks.
        """
        for name in names:
            if name not in self.folds:
                raise UserError(f"{_FLAG}={self.folder}: has not left out task {name}; it has "
                                f"{', '.join(self.folds)}")
        seeds, first = self.config.num_seeds, self.config.seed
        found = []
        for member in config.members():
            if not 0 <= member.seed - first < seeds:
                raise UserError(f"--seed={config.seed}: with num_seeds={config.num_seeds} asks for "
                                f"seed {member.seed}; {self.folder} has {first} to "
                                f"{first + seeds - 1}")
            found.append([self.folds.index(name) * seeds + member.seed - first for name in names])
        tasks = self.problem.suite.task_names
        return np.array([tasks.index(name) for name in names]), np.array(found)

    def others(self) -> np.ndarray:
        """Which tasks the members have learned, [S₀, M₀]."""
        held = np.repeat([self.problem.suite.task_names.index(name) for name in self.folds],
                         self.config.num_seeds)
        return np.arange(self.problem.suite.num_tasks) != held[:, None]


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`, by dotted name, as those that adaptation begins from.

    Widths are those of its networks, after any matching of capacity. Raises UserError as `Source`.
    """
    source = Source(folder)
    same = {leaf.name: leaf.value for leaf in leaves(source.config)}
    return same | {
        "leave_out": "none", "run_dir": "", "capacity": "free", "adapt.source": str(folder),
        "run.compile_cache": Config().run.compile_cache,
        "network.hidden": source.problem.network.method.config.network.hidden}


def begin(problem: Problem, state: TrainState, source: Source | None = None,
          chosen: np.ndarray | None = None) -> TrainState:
    """The state [S, ...] that adaptation begins with, from one that was initialised anew.

    It is the same where nothing adapts, or from scratch alone. `chosen` [S, M] are the source's
    tasks whose own parameters new ones start with.
    """
    config, names = problem.config, problem.suite.task_names
    regimes = [member.adapt.regime for member in config.members()]
    if not config.adapt.inherits:
        return state
    after, updates = config.adapt.unfreeze_after, problem.num_updates
    if UNFREEZE in regimes and after >= updates:
        raise UserError(f"--adapt.unfreeze_after={after}: the adaptation has {updates} updates; "
                        "name fewer")
    source = source or Source(Path(config.adapt.source))
    for name in ("method", "algorithm", "suite"):
        if (here := getattr(config, name)) != (there := getattr(source.config, name)):
            raise UserError(f"--{name}={here}: {_FLAG}={source.folder} was trained with {there}")
    rows, members = source.locate(config, names)
    given, new = jnp.array([regime != "scratch" for regime in regimes]), state.agent.variables
    learned = source.state.agent.variables

    def from_source(old: Any, found: Any) -> Any:
        def of(old: jax.Array, found: jax.Array) -> jax.Array:
            if old.shape != found.shape:
                raise UserError(f"{_FLAG}={source.folder}: has parameters {found.shape[2:]} where "
                                f"these are {old.shape[2:]}; adapt with the settings of its "
                                "network")
            return jnp.where(lead(given, old), found, old)

        return jax.tree.map(of, old, found)

    own, task = new["task"]["own"], new["task"]
    if config.adapt.start == "mean":
        own = from_source(own, jax.tree.map(lambda x: x[members],
                                            _mean(learned["task"], source.others())))
    if chosen is not None:
        own = from_source(own, jax.tree.map(lambda x: x[members, chosen], learned["task"]))
    shared = from_source(task["shared"], jax.tree.map(lambda x: x[members], learned["shared"]))
    trains = jnp.array([[trains_at_first(member.adapt)] for member in config.members()])
    trains = jnp.broadcast_to(trains, task["trains"].shape)
    variables = new | {"task": {"shared": shared, "own": own, "trains": trains}}
    stats = jax.tree.map(lambda old, x: jnp.where(lead(given, old), x[members, rows], old),
                         state.stats, source.state.stats)
    return state.replace(stats=stats, agent=jax.jit(jax.vmap(
        lambda agent, variables, scalars: _with(problem, agent, variables, scalars)))(
            state.agent, variables, state.scalars))


def _with(problem: Problem, agent: Agent, variables: Any, scalars: Any) -> Agent:
    """An agent that has done nothing yet with other variables, of one seed."""
    network = problem.network
    memory = network.method.init_memory(variables["task"], scalars)[1]
    curvature = network.curvature(variables, memory, scalars, problem.samples)
    target = variables if problem.algorithm.keeps_target else agent.target
    begun = Agent(variables, init_moments(variables, curvature), memory, target)
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), begun)


def _mean(task: Any, others: np.ndarray) -> Any:
    """Means [S₀, ...] of tasks' own parameters [S₀, M₀, ...] over the `others` [S₀, M₀]."""
    def of(x: jax.Array) -> jax.Array:
        mask = others.reshape(*others.shape, *(1,) * (x.ndim - 2))
        return jnp.mean(jnp.asarray(x), 1, where=mask)

    return jax.tree.map(of, task)
