"""The lander of Gymnasium's LunarLander-v3 (O. Klimov), in metres, kilograms and seconds."""

import math
from typing import NamedTuple

import numpy as np

from varshare_jax.suites.lunar_lander.geometry import Vec

SCALE = 30.0  # pixels per metre: the original's numbers are in pixels
DT = 1 / 50  # s
WORLD = Vec(20.0, 400 / SCALE)  # m
HELIPAD_HEIGHT = WORLD.y / 4
CHUNKS = 11  # points of the terrain, evenly spaced
SPACING = WORLD.x / (CHUNKS - 1)

# Box2D's tolerances and limits (b2Settings.h).
LINEAR_SLOP = 0.005  # m
ANGULAR_SLOP = 2 / 180 * math.pi
SKIN = 0.02  # m; two polygons' radii: shapes touch when they are this near
MAX_LINEAR_CORRECTION = 0.2  # m
MAX_ANGULAR_CORRECTION = 8 / 180 * math.pi
SLEEP_SPEED = 0.01  # m/s
SLEEP_RATE = 2 / 180 * math.pi  # rad/s
SLEEP_SECONDS = 0.5


class Body(NamedTuple):
    """A convex polygon of even density.

    `vertices` [V] are counter-clockwise, from the centre of mass; face i, whose normal is
    `normals[i]`, begins at vertex i. `centre` is in the coordinates the polygon was given in.
    """

    mass: float
    inertia: float
    vertices: Vec
    normals: Vec
    centre: Vec

    @property
    def inverse_mass(self) -> float:
        return 1 / self.mass

    @property
    def inverse_inertia(self) -> float:
        return 1 / self.inertia


def _polygon(points: list[tuple[float, float]], density: float) -> Body:
    p = np.array(points, np.float64)
    q = np.roll(p, -1, axis=0)
    doubled = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]  # of the triangle with the origin
    area = doubled.sum() / 2
    centre = ((p + q) * doubled[:, None]).sum(0) / (6 * area)
    p, q = p - centre, q - centre
    doubled = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    inertia = (doubled * ((p * p).sum(1) + (p * q).sum(1) + (q * q).sum(1))).sum() / 12
    edges = (q - p) / np.linalg.norm(q - p, axis=1, keepdims=True)
    return Body(float(density * area), float(density * inertia),
                Vec(p[:, 0], p[:, 1]), Vec(edges[:, 0], edges[:, 1]).right(),
                Vec(float(centre[0]), float(centre[1])))


HULL = _polygon([(x / SCALE, y / SCALE) for x, y in
                 ((-14, 17), (-17, 0), (-17, -10), (17, -10), (17, 0), (14, 17))], density=5.0)
LEG = _polygon([(x / SCALE, y / SCALE) for x, y in ((-2, -8), (2, -8), (2, 8), (-2, 8))],
               density=1.0)
BODIES = (HULL, LEG, LEG)  # legs as in the original: that of i = -1 stands right, then i = +1
TOTAL_MASS = HULL.mass + 2 * LEG.mass
FRICTION = math.sqrt(0.1 * 0.2)  # of the terrain and a leg, mixed as Box2D does

SIDES = (-1.0, 1.0)  # i of each leg
LEG_AWAY, LEG_DOWN = 20 / SCALE, 18 / SCALE
HULL_ANCHOR = Vec(0.0, -HULL.centre.y)  # the joints are at the hull's origin
LEG_ANCHORS = tuple(Vec(i * LEG_AWAY, LEG_DOWN) for i in SIDES)
# Limits are of the angle of the leg minus that of the hull. Box2D counts from the angle at which
# the joint was made, which is 0.05 i.
LOWER = tuple((0.4 if i < 0 else -0.9) + 0.05 * i for i in SIDES)
UPPER = tuple((0.9 if i < 0 else -0.4) + 0.05 * i for i in SIDES)
MOTOR_SPEEDS = tuple(0.3 * i for i in SIDES)  # rad/s
MAX_MOTOR_IMPULSE = 40 * DT  # N m s
MOTOR_MASS = 1 / (HULL.inverse_inertia + LEG.inverse_inertia)
