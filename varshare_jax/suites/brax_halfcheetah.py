"""Nine half-cheetahs that differ in mass, gravity and friction, stepped by one program."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.brax import BraxSuite, environment

VERSION = "1"
QUANTITIES = {"mass": "mass [kg]", "gravity": "gravity [m/s²]", "friction": "friction"}
"""A task's fields by what figures call them."""


class HalfcheetahTask(NamedTuple):
    """The robot's mass [kg], of which every link has its share; gravity [m/s²]; friction between
    robot and ground, a coefficient."""

    name: str
    mass: float = 14.0
    gravity: float = 9.81
    friction: float = 0.4


NOMINAL = HalfcheetahTask("nominal")  # brax's own
TASKS = (
    NOMINAL,
    HalfcheetahTask("light", mass=7.0),
    HalfcheetahTask("heavy", mass=28.0),
    HalfcheetahTask("low_gravity", gravity=4.9),
    HalfcheetahTask("high_gravity", gravity=14.7),
    HalfcheetahTask("slippery", friction=0.1),
    HalfcheetahTask("rough", friction=0.8),
    HalfcheetahTask("heavy_slippery", mass=28.0, friction=0.1),
    HalfcheetahTask("light_high_gravity", mass=7.0, gravity=14.7),
)


def make(name: str = "brax_halfcheetah9",
         tasks: Sequence[HalfcheetahTask] = TASKS) -> BraxSuite:
    """The suite of these tasks."""
    env = environment("halfcheetah")
    suite = BraxSuite(name, VERSION, env, physics_of(env.sys, tasks),
                      tuple(task.name for task in tasks), "brax halfcheetah")
    suite.task_parameters = {label: tuple(getattr(task, field) for task in tasks)
                             for field, label in QUANTITIES.items()}
    return suite


def physics_of(sys: Any, tasks: Sequence[HalfcheetahTask]) -> Mapping[str, jax.Array]:
    """Fields of brax's System, leading with [M]; `sys` is that of the nominal task.

    Inertias follow masses: a heavier robot is a denser one.
    """
    def column(field: str, axes: int) -> jax.Array:
        values = np.array([getattr(task, field) for task in tasks], np.float32)
        return jnp.asarray(values.reshape(-1, *(1,) * axes))

    share, inertia = column("mass", 1) / NOMINAL.mass, sys.link.inertia
    sliding = jnp.arange(3) == 0  # then spinning and rolling, which the engine does not read
    return {
        "link.inertia.mass": share * inertia.mass,
        "link.inertia.i": share[..., None, None] * inertia.i,
        "gravity": column("gravity", 1) * jnp.array([0.0, 0.0, -1.0]),
        "geom_friction": jnp.where(sliding, column("friction", 2), sys.geom_friction),
    }
