"""CartPole-10 (ten cart-poles that differ in pole length, masses and gravity) and its like.

The physics is gymnax's CartPole-v1, which follows Gymnasium's (Barto, Sutton & Anderson 1983);
gymnax keeps two derived parameters that must follow a task's masses and length.
"""

from typing import Any, NamedTuple

import numpy as np

from varshare_jax.suites.gymnax import GymnaxSuite, library, same_for_all

VERSION = "1"


class CartPoleTask(NamedTuple):
    """Physical parameters of one cart-pole; `pole_length` is half the pole, as in Gymnasium.

    `random_return` is the mean return of uniformly random actions over 4096 episodes, None where
    no table has it. Action 1 pushes to the right with `force`, action 0 to the left: a negative
    force reverses both.
    """

    name: str
    pole_length: float  # m
    cart_mass: float  # kg
    pole_mass: float  # kg
    gravity: float  # m/s²
    random_return: float | None = None
    force: float = 10.0  # N


_QUANTITIES = {"pole_length": "half pole length [m]", "cart_mass": "cart mass [kg]",
               "pole_mass": "pole mass [kg]", "gravity": "gravity [m/s²]",
               "force": "force of action 1 [N]"}

NOMINAL = CartPoleTask("nominal", 0.5, 1.0, 0.1, 9.8, 22.0)

# Easy for a policy trained on the nominal task alone: the first four. It fails on the other six,
# where an oracle still balances for all 500 steps (`python -m varshare_jax.validation.difficulty`).
#                name           length  cart  pole  gravity  random
TASKS = (
    NOMINAL,
    CartPoleTask("low_gravity", 0.5, 1.0, 0.1, 1.6, 25.1),
    CartPoleTask("floaty", 2.0, 0.3, 0.05, 1.6, 28.8),
    CartPoleTask("sluggish", 1.5, 6.0, 0.5, 20.0, 48.8),
    CartPoleTask("heavy_short", 0.05, 4.0, 0.1, 25.0, 8.8),
    CartPoleTask("short", 0.05, 1.0, 0.1, 25.0, 5.8),
    CartPoleTask("quick", 0.1, 0.3, 0.1, 25.0, 4.7),
    CartPoleTask("light_cart", 0.1, 0.1, 0.5, 9.8, 4.2),
    CartPoleTask("heavy_pole", 0.1, 1.0, 2.0, 25.0, 8.4),
    CartPoleTask("twitchy", 0.1, 0.3, 2.0, 25.0, 6.6),
)


def env_params(tasks: tuple[CartPoleTask, ...], default):
    """gymnax EnvParams with leaves [M], the derived fields recomputed."""
    column = {field: np.array([getattr(task, field) for task in tasks], np.float32)
              for field in _QUANTITIES}
    return same_for_all(default, len(tasks)).replace(
        length=column["pole_length"], masscart=column["cart_mass"],
        masspole=column["pole_mass"], gravity=column["gravity"], force_mag=column["force"],
        total_mass=column["cart_mass"] + column["pole_mass"],
        polemass_length=column["pole_mass"] * column["pole_length"])


class CartPoleSuite(GymnaxSuite):
    """Cart-poles of a table of tasks; M = len(tasks)."""

    def __init__(self, name: str, tasks: tuple[CartPoleTask, ...], version: str = VERSION):
        env, default = self._environment()
        super().__init__(name, version, env, env_params(tasks, default),
                         tuple(task.name for task in tasks), "gymnasium CartPole-v1")
        self._tasks = tasks
        self.describe(tasks, _QUANTITIES, float(self.horizon))  # 1 for every step

    def _environment(self) -> tuple[Any, Any]:
        """The environment of all tasks and its parameters, before a task's own are set."""
        return library().make("CartPole-v1")

    def render(self, state, task):
        from varshare_jax.suites.cartpole_drawing import draw

        of = self._tasks[task]
        return draw(float(state.x[task, 0]), float(state.theta[task, 0]),
                    2 * of.pole_length, of.cart_mass, of.pole_mass)

    def gymnasium_env(self, task: int):
        """Gymnasium's CartPole-v1 with the physics of a task."""
        import gymnasium

        env = gymnasium.make("CartPole-v1", max_episode_steps=self.horizon)
        of_task = self._tasks[task]
        physics: Any = env.unwrapped
        physics.length, physics.gravity = of_task.pole_length, of_task.gravity
        physics.masscart, physics.masspole = of_task.cart_mass, of_task.pole_mass
        physics.force_mag = of_task.force
        physics.total_mass = physics.masscart + physics.masspole
        physics.polemass_length = physics.masspole * physics.length
        return env
