"""How tasks that a run has left out are played before anything is learned of them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax import suites
from varshare_jax.config import Config
from varshare_jax.learner import Learner
from varshare_jax.methods import METHODS
from varshare_jax.playing.evaluation import compiled, evaluation_key
from varshare_jax.runs import transfer
from varshare_jax.runs.files import plain
from varshare_jax.settings import replace
from varshare_jax.types import TrainState


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
    seeds = [member.seed for member in problem.config.members()]
    play = compiled(problem, episodes=episodes, actions=config.run.eval_actions)

    def returns(state: TrainState, number: int) -> np.ndarray:
        keys = jnp.stack([evaluation_key(seed, number) for seed in seeds])
        return np.asarray(play(jax.vmap(problem.player)(state), keys).total).mean(-1)

    names = problem.suite.task_names
    rows, members = source.rows(names), source.members(problem.config, names)
    found = {"task_names": names, "episodes": episodes, "shared": returns(state, 0)}
    if METHODS[config.method].method.offers:
        count = source.problem.suite.num_tasks
        tried = [(rows + shift) % count for shift in range(1, count)]
        scores = np.stack([returns(_as(state, source, members, others), 1) for others in tried])
        best = np.stack(tried)[scores.argmax(0), np.arange(len(names))]
        found |= {"best_other": returns(_as(state, source, members, best), 2),
                  "whose": np.array(source.problem.suite.task_names)[best]}
    return plain(found)


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
