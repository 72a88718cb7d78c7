"""Trials side by side in one compiled program, each in a place that the next one takes over."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax import suites
from varshare_jax.algorithms.base import Problem
from varshare_jax.config import Config
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.playing import evaluation
from varshare_jax.runs.devices import Layout
from varshare_jax.runs.monitoring import Progress
from varshare_jax.settings import replace
from varshare_jax.types import Player, TrainState, lead


class Round(NamedTuple):
    """What a trial has come to: its evaluation's number from 1 on, returns [K, M], env steps of a
    seed, and the update at which a seed's loss was not finite for the first time, if one was."""

    number: int
    returns: np.ndarray
    env_steps: int
    diverged: int | None


@dataclasses.dataclass
class _Place:
    """Who trains here: scalars come with the state; how many evaluations and updates so far."""

    rounds: int = 0
    update: int = 0


class Pool:
    """C places × K seeds as the S members of one program, place by place.

    `config` gives everything but the traced values, which come with each trial: one that is over
    leaves its place to the next, whose members are initialised there while all others go on.
    Every member counts its own updates, so a trial trains and is evaluated as it would be alone.
    Later trials compile nothing.
    """

    def __init__(self, config: Config, places: int, evaluations: int, progress: Progress):
        self.places, self.seeds = places, config.num_seeds
        for flag, value, none in (("leave_out", config.leave_out, "none"),
                                  ("adapt.regime", config.adapt.regime, "")):
            if value != none:
                raise UserError(f"--{flag}={value}: a search trains all tasks, from the beginning")
        # Whether they fit the memory depends on how many there are.
        config = replace(suites.settle(config), {"num_seeds": places * self.seeds})
        updates = Learner.make(config).problem.num_updates
        evaluations = min(evaluations, updates)
        self.ends = [-(-updates * k // evaluations) for k in range(evaluations + 1)]
        self.learner = Learner.make(replace(config, {"run.log_every": 1}))
        self.problem = self.learner.problem
        self.problem.suite.tracing = progress.say
        self.busy: dict[int, _Place] = {}
        self._progress = progress
        self._state: TrainState | None = None
        self._layout = Layout.choose(*self.problem.suite.divisible(places * self.seeds))
        self._compile()

    def free(self) -> list[int]:
        """The places that nobody trains in."""
        return [place for place in range(self.places) if place not in self.busy]

    def fill(self, place: int, scalars: Mapping[str, float]) -> None:
        """Starts a trial in a free place; `scalars` are those of the config that it changes."""
        fresh = self._fresh(scalars)
        if self._state is None:  # the other places hold copies, which nobody trains
            self._state = self._layout.place(jax.tree.map(self._repeat, fresh))
        else:
            self._state = self._insert(self._state, fresh, jnp.int32(place))
        self.busy[place] = _Place()

    def leave(self, place: int) -> None:
        """Frees a place; the last one out leaves no state behind, only the compiled programs."""
        del self.busy[place]
        if not self.busy:
            self._state = None

    def advance(self, asked: Callable[[], bool] = lambda: False) -> dict[int, Round]:
        """Trains every busy place up to its next evaluation, and evaluates them.

        Update by update, since many places may take a minute from one evaluation to the next: once
        `asked` to end, it does so after the present one, and nothing has come of any trial.
        """
        counts = np.zeros(self.places, np.int32)
        for place, at in self.busy.items():
            counts[place] = self.ends[at.rounds + 1] - at.update
        losses = []
        for update in range(int(np.max(counts))):
            if asked():
                return {}
            one = (update < counts).astype(np.int32)
            self._state, loss = self._advance(self._state, jnp.repeat(one, self.seeds))
            losses.append(np.asarray(loss))
        loss = np.concatenate(losses, 1).reshape(self.places, self.seeds, len(losses), -1)
        found = {}
        for place, at in self.busy.items():
            bad = ~np.isfinite(loss[place, :, :counts[place]]).all((0, 2))
            diverged = at.update + int(np.argmax(bad)) if bad.any() else None
            at.rounds, at.update = at.rounds + 1, at.update + int(counts[place])
            found[place] = diverged
        played = self._returns()
        return {place: self._round(place, played[place], diverged)
                for place, diverged in found.items()}

    @property
    def last(self) -> int:
        """The number of a trial's last evaluation."""
        return len(self.ends) - 1

    @property
    def _steps(self) -> int:
        """Env steps of an update of one seed."""
        return self.problem.suite.num_tasks * self.problem.config.steps_per_task

    def _keys(self, place: int, i: int) -> jax.Array:
        """Keys [K] of an evaluation of a place, those of a run of these seeds."""
        first, update = self.problem.config.seed, self.busy.get(place, _Place()).update
        return jnp.stack([evaluation.evaluation_key(first + seed, update * 1000 + i)
                          for seed in range(self.seeds)])

    def _returns(self) -> np.ndarray:
        """Mean returns [C, K, M] of the next evaluation of each place."""
        keys = jnp.concatenate([self._keys(place, 0) for place in range(self.places)])
        played = np.asarray(self._evaluate(self._state, keys))
        return played.reshape(self.places, self.seeds, *played.shape[1:])

    def _round(self, place: int, returns: np.ndarray, diverged: int | None) -> Round:
        at, returns = self.busy[place], self._finish(place, returns)
        if diverged is None and not np.isfinite(returns).all():  # its last step may have done it
            diverged = at.update - 1
        return Round(at.rounds, returns, at.update * self._steps, diverged)

    def _finish(self, place: int, returns: np.ndarray) -> np.ndarray:
        """`returns` [K, M], over more episodes if this evaluation is the trial's last."""
        run = self.problem.config.run
        repeats = -(-run.final_eval_episodes // run.eval_episodes)
        if self.busy[place].rounds < self.last or repeats == 1:
            return returns
        play = evaluation.compiled(self.problem, episodes=run.eval_episodes,
                                   actions=run.eval_actions)
        player = jax.device_get(self._player(self._state, jnp.int32(place)))
        more = [np.asarray(play(player, self._keys(place, i)).total).mean(-1)
                for i in range(1, repeats)]
        return np.mean([returns, *more], 0)

    def _fresh(self, scalars: Mapping[str, float]) -> TrainState:
        """States [K, ...] as a run of these seeds begins."""
        config = self.problem.config
        keys = jnp.stack([jax.random.key(config.seed + seed) for seed in range(self.seeds)])
        vectors = {name: jnp.full(self.seeds, value, jnp.float32)
                   for name, value in (config.scalars() | dict(scalars)).items()}
        return self.learner.start(keys, vectors)

    def _repeat(self, leaf: jax.Array) -> jax.Array:
        """[K, ...] -> [S, ...], the same in every place."""
        return leaf[jnp.arange(self.places * self.seeds) % self.seeds]

    def _compile(self) -> None:
        like = jax.eval_shape(lambda: jax.tree.map(self._repeat, self._fresh({})))
        shardings = self._layout.shardings(like)
        like = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
                            like, shardings)
        counts = jnp.zeros(self.places * self.seeds, jnp.int32)
        keys = jnp.concatenate([self._keys(place, 0) for place in range(self.places)])
        with self._progress.working("compiling the training step and the evaluation"):
            self._advance, self._evaluate = self._layout.compile_both(
                like, (functools.partial(_train, self.learner), counts),
                (functools.partial(_play, self.problem), keys),
                self.problem.suite.compiler_options)
        self._insert = jax.jit(_put, donate_argnums=0, out_shardings=shardings)
        self._player = jax.jit(functools.partial(_take, self.problem, self.seeds))


def _train(learner: Learner, state: TrainState, counts: jax.Array) -> tuple[TrainState, jax.Array]:
    """`counts` [S] updates; of the metrics only the loss [S, chunk, M]."""
    state, metrics = learner.update_many(state, counts)
    return state, metrics["loss"]


def _play(problem: Problem, state: TrainState, keys: jax.Array) -> jax.Array:
    """Mean returns [S, M] of one evaluation."""
    return evaluation.evaluate_training(problem, state, keys).total.mean(-1)


def _put(state: TrainState, fresh: TrainState, place: jax.Array) -> TrainState:
    """`state` [S, ...] with the members of a place replaced by `fresh` [K, ...]."""
    def written(old: jax.Array, new: jax.Array) -> jax.Array:
        member = jnp.arange(old.shape[0])
        here = member // new.shape[0] == place
        return jnp.where(lead(here, old), new[member % new.shape[0]], old)

    return jax.tree.map(written, state, fresh)


def _take(problem: Problem, seeds: int, state: TrainState, place: jax.Array) -> Player:
    """The players [K, ...] of a place."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, place * seeds, seeds),
                        problem.player(state))
