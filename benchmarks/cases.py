"""What is measured, in the order of a round, and the numbers that are judged.

A case is one measuring process. The order puts cases that are compared next to each other, the
closest races first.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

Round = Mapping[str, Mapping[str, Any]]  # case name -> what its process measured


@dataclasses.dataclass(frozen=True)
class Case:
    """One process: `kind` names the function of `worker` or `peers`, `settings` its work.

    `in_smoke` makes the work tiny for a smoke test; None leaves the case out of it, for it takes
    long to compile and exercises nothing of the benchmark that others do not.
    """

    kind: str
    settings: Mapping[str, Any]
    in_smoke: Mapping[str, Any] | None

    @property
    def is_peer(self) -> bool:
        return self.kind in ("purejaxrl", "rejax", "rejax_dqn")


# The work of one update, the same for every library: T = 128, 4 epochs of 4 minibatches, 2x64
# tanh, which are also varshare_jax's defaults.
_WORK = {"ppo.rollout_length": 128, "ppo.epochs": 4, "ppo.minibatches": 4,
         "network.hidden": [64, 64], "network.activation": "tanh"}
_TINY = {"ppo.num_envs": 2, "ppo.rollout_length": 4, "run.log_every": 2, "network.hidden": [8]}


def _ours(suite: str, method: str, envs: int, seeds: int = 1, chunk: int = 10,
          kind: str = "train", smoke: bool = True, **settings: Any) -> Case:
    """`chunk` is the number of updates per timed call; it only bounds the length of a call."""
    settings = {"suite": suite, "method": method, "ppo.num_envs": envs, "num_seeds": seeds,
                "run.log_every": chunk, **_WORK, **settings}
    return Case(kind, settings, _TINY | {"num_seeds": min(seeds, 2)} if smoke else None)


def _ten(method: str, **settings: Any) -> Case:
    return _ours("cartpole10", method, 64, chunk=2, **settings)


def _peer(kind: str, envs: int, updates: int) -> Case:
    return Case(kind, {"num_envs": envs, "updates": updates}, {"num_envs": 8, "updates": 2})


def _peer_dqn(replay: int, updates: int) -> Case:
    """rejax's own settings for CartPole-v1, but for the dueling network and, maybe, the replay.

    2x64 tanh; an update is a step of 10 envs and 5 batches of 100.
    """
    settings = {"num_envs": 10, "gradient_steps": 5, "batch_size": 100, "replay": replay,
                "updates": updates}
    return Case("rejax_dqn", settings, {"updates": 2, "replay": 128})


def _dqn(suite: str, chunk: int) -> Case:
    """The work of rejax's DQN for every task: n-step and decay of the learning rate turned off."""
    settings = {
        "algorithm": "dqn", "suite": suite, "method": "hard_sharing", "num_seeds": 1,
        "network.hidden": [64, 64], "network.activation": "tanh", "run.log_every": chunk,
        "dqn.num_envs": 10, "dqn.rollout_length": 1, "dqn.gradient_steps": 5,
        "dqn.batch_size": 100, "dqn.replay_size": 50_000, "dqn.learning_starts": 100,
        "dqn.n_step": 1, "dqn.target_rate": 0.02, "dqn.anneal_learning_rate": False}
    return Case("train", settings, {"dqn.replay_size": 128, "network.hidden": [8],
                                    "run.log_every": 2})


CASES: dict[str, Case] = {
    "16 seeds, 10x64": _ours("cartpole10", "hard_sharing", 64, seeds=16, chunk=1,
                             smoke=False),
    "varshare": _ten("varshare"),
    "hard_sharing": _ten("hard_sharing"),
    "purejaxrl 640": _peer("purejaxrl", 640, 5),
    "l2_soft": _ten("l2_soft", smoke=False),
    "independent": _ten("independent", smoke=False),
    "flipout": _ten("varshare", smoke=False, **{"varshare.estimator": "flipout"}),
    "local": _ten("varshare", smoke=False, **{"varshare.estimator": "local"}),
    "pcgrad": _ten("pcgrad"),
    "cagrad": _ten("cagrad", smoke=False),
    **{f"{method} 3x400": _ours("cartpole10", method, 16, chunk=1, smoke=False,
                                **{"network.hidden": [400, 400, 400]})
       for method in ("pcgrad", "hard_sharing", "cagrad")},
    "matmuls": _ten("hard_sharing", kind="matmuls"),
    "purejaxrl 64": _peer("purejaxrl", 64, 30),
    "single task": _ours("cartpole", "hard_sharing", 64),
    "rejax 64": _peer("rejax", 64, 30),
    "dqn": _dqn("cartpole", 500),
    "dqn, ten tasks": _dqn("cartpole10", 100),
    "rejax dqn": _peer_dqn(50_000, 100),
    "rejax dqn, small replay": _peer_dqn(2_048, 500),
    "1 seed, 1x4": _ours("cartpole", "hard_sharing", 4),
    "16 seeds, 1x4": _ours("cartpole", "hard_sharing", 4, seeds=16),
    "cold start": _ten("hard_sharing", kind="start"),
    "warm start": _ten("hard_sharing", kind="start"),
}
COLD, WARM = "cold start", "warm start"


class Value(NamedTuple):
    """A field of a case's answer."""

    case: str
    field: str

    def of(self, measured: Round) -> float:
        """NaN where the case was not measured."""
        return measured[self.case][self.field] if self.case in measured else math.nan


@dataclasses.dataclass(frozen=True)
class Row:
    """A judged number of each round: `value`, divided by `over` if there is one."""

    group: str
    name: str
    value: Value
    over: Value | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def cases(self) -> set[str]:
        return {self.value.case} | ({self.over.case} if self.over else set())

    def summary(self, rounds: list[Round]) -> dict[str, Any] | None:
        """Median, extremes and verdict over the rounds; None where nothing was measured."""
        values = [self.value.of(r) / (self.over.of(r) if self.over else 1.0) for r in rounds]
        values = [v for v in values if math.isfinite(v)]
        if not values:
            return None
        median = statistics.median(values)
        met = None
        if self.at_least is not None:
            met = median >= self.at_least
        elif self.at_most is not None:
            met = median <= self.at_most
        return {"group": self.group, "name": self.name, "median": median, "min": min(values),
                "max": max(values), "rounds": len(values), "target": self.target, "met": met}

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""


def _speed(case: str) -> Value:
    return Value(case, "steps_per_second")


def _time(case: str) -> Value:
    return Value(case, "seconds_per_update")


ROWS: tuple[Row, ...] = (
    Row("cartpole10", "hard_sharing / purejaxrl, steps/s", _speed("hard_sharing"),
        _speed("purejaxrl 640"), at_least=2.0),
    Row("cartpole10", "varshare / purejaxrl, steps/s", _speed("varshare"),
        _speed("purejaxrl 640"), at_least=1.8),
    Row("cartpole10", "l2_soft / purejaxrl, steps/s", _speed("l2_soft"),
        _speed("purejaxrl 640")),
    Row("cartpole10", "independent / purejaxrl, steps/s", _speed("independent"),
        _speed("purejaxrl 640")),
    Row("cartpole10", "varshare / hard_sharing, time", _time("varshare"),
        _time("hard_sharing"), at_most=1.15),
    Row("single", "single task / purejaxrl, steps/s", _speed("single task"),
        _speed("purejaxrl 64"), at_least=1.3),
    Row("single", "single task / rejax, steps/s", _speed("single task"), _speed("rejax 64")),
    Row("dqn", "single task / rejax, steps/s", _speed("dqn"), _speed("rejax dqn"), at_least=1.5),
    Row("dqn", "ten tasks in sum / rejax, steps/s", _speed("dqn, ten tasks"), _speed("rejax dqn"),
        at_least=2.0),
    Row("dqn", "single task / rejax with a replay of 2 k, steps/s", _speed("dqn"),
        _speed("rejax dqn, small replay")),
    Row("dqn", "rejax, replay of 2 k / of 50 k, steps/s", _speed("rejax dqn, small replay"),
        _speed("rejax dqn")),
    Row("seeds", "16 seeds / 1 seed, 1x4, steps/s", _speed("16 seeds, 1x4"),
        _speed("1 seed, 1x4"), at_least=1.5),
    Row("seeds", "16 seeds / 1 seed, 10x64, steps/s", _speed("16 seeds, 10x64"),
        _speed("hard_sharing"), at_least=0.95),
    Row("compile", "compile, empty cache, s", Value(COLD, "compile_seconds"), at_most=10.0),
    Row("compile", "compile, warm cache, s", Value(WARM, "compile_seconds"), at_most=3.0),
    Row("compile", "process to first update, empty cache, s",
        Value(COLD, "first_update_seconds")),
    Row("compile", "process to first update, warm cache, s", Value(WARM, "first_update_seconds")),
    Row("matmuls", "training / its bare matmuls, time", _time("matmuls"),
        Value("matmuls", "matmul_seconds"), at_most=1.8),
    *(Row("combiners", f"{method}{size} / hard_sharing{size}, time", _time(method + size),
          _time("hard_sharing" + size), at_most=1.6)
      for size in ("", " 3x400") for method in ("pcgrad", "cagrad")),
    Row("estimators", "varshare, shared / hard_sharing, time", _time("varshare"),
        _time("hard_sharing")),
    Row("estimators", "varshare, flipout / hard_sharing, time", _time("flipout"),
        _time("hard_sharing")),
    Row("estimators", "varshare, local / hard_sharing, time", _time("local"),
        _time("hard_sharing")),
)
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))
