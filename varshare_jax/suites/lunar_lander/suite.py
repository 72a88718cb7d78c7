"""Many landings at once, as a suite."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.base import Suite
from varshare_jax.suites.lunar_lander.env import (
    ACTION_SIZE,
    MAX_STEPS,
    NUM_ACTIONS,
    OBSERVATION_SIZE,
    LunarLander,
    Params,
    State,
    draw_dispersion,
)
from varshare_jax.suites.lunar_lander.tasks import QUANTITIES, SOLVED, LunarLanderTask
from varshare_jax.types import Continuous, Discrete, Step

VERSION = "2"


class LunarLanderSuite(Suite):
    """M landers that differ in gravity, wind and turbulence; success is to come to rest."""

    version = VERSION
    observation_size = OBSERVATION_SIZE
    horizon = MAX_STEPS
    has_success: ClassVar[bool] = True
    reference = "gymnasium LunarLander-v3"

    def __init__(self, name: str, tasks: tuple[LunarLanderTask, ...], continuous: bool = False):
        self.name, self.task_names = name, tuple(task.name for task in tasks)
        self.action_space = Continuous(ACTION_SIZE) if continuous else Discrete(NUM_ACTIONS)
        self.env, self._tasks = LunarLander(continuous), tasks
        self.describe(tasks, QUANTITIES, SOLVED)

    def params(self, shape: tuple[int, int]) -> Params:
        """The tasks' parameters, leaves [M, N]."""
        def column(name, kind):
            values = np.array([getattr(task, name) for task in self._tasks], kind)
            return jnp.broadcast_to(values[:, None], shape)

        return Params(column("gravity", np.float32), column("enable_wind", bool),
                      column("wind_power", np.float32), column("turbulence_power", np.float32),
                      jnp.full(shape, MAX_STEPS))

    def reset(self, keys):
        obs, state = self.env.reset(keys, self.params(keys.shape))
        return _first(state), jnp.moveaxis(obs, 0, -1)

    def step(self, keys, state, action):
        params = self.params(keys.shape)
        if isinstance(self.action_space, Continuous):
            action = jnp.moveaxis(action, -1, 0)
        both = jax.vmap(jax.vmap(jax.random.split))(keys)
        dispersion, reset_keys = draw_dispersion(both[..., 0]), both[..., 1]
        state, out = self.env.transition(_last(state), action, dispersion, params)
        final_obs = jnp.moveaxis(out.observation, 0, -1)
        obs, state = self.env.restart(out.terminated | out.truncated, reset_keys, params,
                                      (out.observation, state))
        return _first(state), Step(jnp.moveaxis(obs, 0, -1), out.reward, out.terminated,
                                   out.truncated, final_obs, out.landed)

    def render(self, state: Any, task: int) -> np.ndarray:
        """A picture of the first env of a task, RGB uint8; `state` is what `step` returned."""
        from varshare_jax.suites.lunar_lander.render import draw

        one = jax.tree.map(lambda x: x[task, 0], state)
        return draw(State(**vars(one)), self.params((self.num_tasks, 1)))

    def gymnasium_env(self, task: int):
        """Gymnasium's LunarLander-v3 with a task's gravity, wind and turbulence."""
        import gymnasium

        env = gymnasium.make("LunarLander-v3",
                             continuous=isinstance(self.action_space, Continuous),
                             **self._tasks[task].gymnasium_options())

        class Landing(gymnasium.Wrapper):
            """Tells success: the original pays 100 for coming to rest and for nothing else."""

            def step(self, action):
                obs, reward, terminated, truncated, info = self.env.step(action)
                return obs, reward, terminated, truncated, {
                    **info, "success": bool(terminated and reward == 100)}

        return Landing(env)


def _last(tree):
    """Leaves [M, N, ...] -> [..., M, N], as the environment takes them."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, (0, 1), (-2, -1)), tree)


def _first(tree):
    """Leaves [..., M, N] -> [M, N, ...], as suites have them."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, (-2, -1), (0, 1)), tree)
