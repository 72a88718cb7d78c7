"""LunarLander in JAX: Gymnasium's LunarLander-v3 with Box2D's solver for its three bodies.

    from varshare_jax.suites import lunar_lander

    env = lunar_lander.LunarLander(continuous=False)
    observation, state = env.reset(key, env.default_params)
    observation, state, reward, done, info = env.step(key, state, action, env.default_params)
"""

from varshare_jax.suites.lunar_lander.env import (
    LunarLander,
    Outcome,
    Params,
    Start,
    State,
    check_params,
)
from varshare_jax.suites.lunar_lander.suite import LunarLanderSuite
from varshare_jax.suites.lunar_lander.tasks import NOMINAL, TASKS, LunarLanderTask

__all__ = ["NOMINAL", "TASKS", "LunarLander", "LunarLanderSuite", "LunarLanderTask", "Outcome",
           "Params", "Start", "State", "check_params"]
