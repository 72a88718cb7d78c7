"""CartPole-Conflict: five cart-poles, each in both directions of the force, each twice.

The physics are every other row of CartPole-10. Each comes with the force of CartPole and with the
reversed one, which no observation tells: what balances one direction topples the other, so no
policy that all tasks share exactly balances both. Every such task comes twice, as twins that
differ in their names alone.
"""

from varshare_jax.suites.cartpole import TASKS, CartPoleTask
from varshare_jax.suites.cartpole_disturbed import Disturbance, DisturbedCartPoleSuite

VERSION = "1"
ANYWHERE = Disturbance(start=1.2)
TWINS = ("a", "b")


def conflict_tasks() -> tuple[CartPoleTask, ...]:
    """The 20 tasks: by physics, then direction, then twin, so that twins are neighbours.

    Random actions know no direction: a reversed task's random return is that of its physics.
    """
    return tuple(
        task._replace(name=f"{task.name}{direction}_{twin}", force=sign * task.force)
        for task in TASKS[::2] for direction, sign in (("", 1), ("_reversed", -1))
        for twin in TWINS)


def make() -> DisturbedCartPoleSuite:
    """The suite `cartpole_conflict`, M = 20."""
    return DisturbedCartPoleSuite("cartpole_conflict", conflict_tasks(), VERSION, ANYWHERE)
