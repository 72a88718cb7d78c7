"""CartPole-Conflict: five cart-poles, each in both directions of the force, each twice.

The physics are the five quickest of CartPole-10. Each comes with the force of CartPole and with the
reversed one, which no observation tells: at every state the two want opposite actions. Every such
task comes twice, as twins that differ in their names alone.
"""

from varshare_jax.suites.cartpole import TASKS, CartPoleTask
from varshare_jax.suites.cartpole_disturbed import POLE_ALONE, DisturbedCartPoleSuite

VERSION = "1"
RANDOM_RETURNS = {"heavy_short": 17.0, "short": 11.7, "quick": 10.2, "heavy_pole": 16.2,
                  "twitchy": 12.7}  # 16384 episodes
TWINS = "a", "b"


def conflict_tasks() -> tuple[CartPoleTask, ...]:
    """The 20 tasks: by physics, then direction, then twin, so that twins are neighbours.

    Random actions know no direction: a reversed task's random return is that of its physics.
    """
    physics = {task.name: task for task in TASKS}
    return tuple(
        physics[name]._replace(name=f"{name}{direction}_{twin}", random_return=measured,
                               force=sign * physics[name].force)
        for name, measured in RANDOM_RETURNS.items()
        for direction, sign in (("", 1), ("_reversed", -1)) for twin in TWINS)


def make() -> DisturbedCartPoleSuite:
    """The suite `cartpole_conflict`, M = 20."""
    return DisturbedCartPoleSuite("cartpole_conflict", conflict_tasks(), VERSION, POLE_ALONE)
