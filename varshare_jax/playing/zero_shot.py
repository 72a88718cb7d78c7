"""How tasks that a run has left out are played before anything is learned of them, and by what.

Whose parameters of another task play a new one best is told, and adaptation may begin with them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax import suites
from varshare_jax.algorithms.base import Problem
from varshare_jax.config import Config
from varshare_jax.learner import Learner
from varshare_jax.methods import METHODS
from varshare_jax.playing.evaluation import compiled, evaluation_key
from varshare_jax.runs import transfer
from varshare_jax.runs.files import plain
from varshare_jax.settings import replace
from varshare_jax.types import TrainState

_Returns = Callable[[TrainState, int], np.ndarray]


def begin(problem: Problem, state: TrainState) -> TrainState:
    """`transfer.begin`, and before it the choice of other tasks that `adapt.start=best` asks for.

    It plays every new task with what each other task has, in `run.eval_episodes` episodes.
    """
    adapt = problem.config.adapt
    if adapt.start != "best" or not adapt.inherits:
        return transfer.begin(problem, state)
    source = transfer.Source(Path(adapt.source))
    fresh = transfer.begin(problem, state, source)
    chosen = best_others(problem, fresh, source, _player(problem, problem.config.run.eval_episodes))
    return transfer.begin(problem, state, source, chosen)


def best_others(problem: Problem, state: TrainState, source: transfer.Source,
                returns: _Returns) -> np.ndarray:
    """Which task of the source has what plays each new task best, [S, M], never the task itself."""
    rows, members = source.locate(problem.config, problem.suite.task_names)
    count = source.problem.suite.num_tasks
    tried = [(rows + shift) % count for shift in range(1, count)]
    scores = np.stack([returns(_as(state, source, members, others), 1) for others in tried])
    return np.stack(tried)[scores.argmax(0), np.arange(len(rows))]


def zero_shot(config: Config, episodes: int) -> dict[str, Any]:
    """Returns [K][M] of the tasks of `config`, which adapts to them, under what others learned.

    `shared`: with what a method offers a new task as it is at the start, a residual at its prior's
    mean. `best_other`: with what the other task has that plays it best, named in `whose`; it is
    chosen in other episodes than those that are told. Raises UserError as `transfer.Source` does.
    """
    source = transfer.Source(Path(config.adapt.source))
    config = replace(config, {"adapt.regime": "full", "adapt.start": "fresh"})
    learner = Learner.make(suites.settle(config))
    problem = learner.problem
    state = transfer.begin(problem, learner.init_seeds(), source)
    returns, names = _player(problem, episodes), problem.suite.task_names
    found = {"task_names": names, "episodes": episodes, "shared": returns(state, 0)}
    if METHODS[config.method].method.offers:
        _, members = source.locate(problem.config, names)
        best = best_others(problem, state, source, returns)
        found |= {"best_other": returns(_as(state, source, members, best), 2),
                  "whose": np.array(source.problem.suite.task_names)[best]}
    return plain(found)


def _player(problem: Problem, episodes: int) -> _Returns:
    """Mean returns [S, M] of a state [S, ...] in the episodes of a number."""
    play = compiled(problem, episodes=episodes, actions=problem.config.run.eval_actions)
    seeds = [member.seed for member in problem.config.members()]

    def returns(state: TrainState, number: int) -> np.ndarray:
        keys = jnp.stack([evaluation_key(seed, number) for seed in seeds])
        return np.asarray(play(jax.vmap(problem.player)(state), keys).total).mean(-1)

    return returns


def _as(state: TrainState, source: transfer.Source, members: np.ndarray,
        others: np.ndarray) -> TrainState:
    """`state` in which tasks have what those of `others` ([M] or [K, M]) have in their folds."""
    learned = source.state.agent.variables["task"]
    own = jax.tree.map(lambda x: jnp.asarray(x)[members, others], learned)
    variables = state.agent.variables
    return state.replace(agent=state.agent.replace(
        variables=variables | {"task": variables["task"] | {"own": own}},
        target={**state.agent.target, "task": variables["task"] | {"own": own}}
        if state.agent.target else {}))
