"""Five problems of classic control with unlike observations and actions, as D'Eramo et al. 2020
("Sharing Knowledge in Multi-Task Deep Reinforcement Learning", arXiv 2401.09561) share them.

Horizons are theirs. docs/suites.md lists what differs.
"""

from typing import Any, NamedTuple

from varshare_jax.suites import cartpole
from varshare_jax.suites.base import ScoreRange, Suite
from varshare_jax.suites.car_on_hill import CarOnHill
from varshare_jax.suites.car_on_hill import Params as HillParams
from varshare_jax.suites.gymnax import GymnaxSuite, library, same_for_all
from varshare_jax.suites.inverted_pendulum import InvertedPendulum
from varshare_jax.suites.inverted_pendulum import Params as PendulumParams
from varshare_jax.suites.joined import JoinedSuite

VERSION = "1"
_LONG = 1000  # steps of Acrobot and MountainCar


class Scores(NamedTuple):
    """Mean return of random actions, and what counts as solved."""

    random: float
    target: float


SCORES = {
    "cartpole": Scores(22.1, 500.0),
    "acrobot": Scores(-955.8, -100.0),  # Gymnasium's threshold of reward, as the next
    "mountain_car": Scores(-999.9, -110.0),
    "car_on_hill": Scores(-0.83, 1.0),
    "inverted_pendulum": Scores(-1.0, 0.0)}
"""Random returns: over 4096 episodes."""


def make() -> JoinedSuite:
    """The suite `classic5`."""
    suite = JoinedSuite("classic5", VERSION, "Gymnasium, for its first three tasks", {
        "cartpole": cartpole.CartPoleSuite("cartpole", (cartpole.NOMINAL,)),
        "acrobot": _of_gymnax("Acrobot-v1"),
        "mountain_car": _of_gymnax("MountainCar-v0"),
        "car_on_hill": _alone("car_on_hill", CarOnHill(), HillParams()),
        "inverted_pendulum": _alone("inverted_pendulum", InvertedPendulum(), PendulumParams())})
    suite.score_range = ScoreRange(*zip(*(SCORES[name] for name in suite.task_names), strict=True))
    return suite


def _of_gymnax(env_id: str) -> Suite:
    env, params = library().make(env_id)
    return _alone(env_id, env, params.replace(max_steps_in_episode=_LONG))


def _alone(name: str, env: Any, params: Any) -> Suite:
    """A suite of one task."""
    return GymnaxSuite(name, VERSION, env, same_for_all(params, 1), (name,), name)
