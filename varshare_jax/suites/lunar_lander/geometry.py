"""Vectors, poses and motions in the plane, stored as structures of arrays.

Everything here and in the modules that build on it takes arrays with any trailing batch axes and
works elementwise along them: a solver's inner loop is then contiguous in the batch, which a vector
unit wants, and one environment is simply an empty batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Scalar = Any
"""An array of any axes, a float where all envs have the same; which of them no checker can tell."""


class Vec(struct.PyTreeNode):
    """A vector in the plane."""

    x: Scalar
    y: Scalar

    def __add__(self, other: "Vec") -> "Vec":
        return Vec(self.x + other.x, self.y + other.y)

    def __sub__(self, other: "Vec") -> "Vec":
        return Vec(self.x - other.x, self.y - other.y)

    def __mul__(self, factor: Scalar) -> "Vec":
        return Vec(self.x * factor, self.y * factor)

    __rmul__ = __mul__

    def __neg__(self) -> "Vec":
        return Vec(-self.x, -self.y)

    def dot(self, other: "Vec") -> Scalar:
        return self.x * other.x + self.y * other.y

    def cross(self, other: "Vec") -> Scalar:
        return self.x * other.y - self.y * other.x

    def spun(self, rate: Scalar) -> "Vec":
        """The velocity of this arm's end when the arm turns at `rate` (rad/s)."""
        return Vec(-rate * self.y, rate * self.x)

    def right(self) -> "Vec":
        """Turned by -90°."""
        return Vec(self.y, -self.x)

    def turned(self, direction: "Vec") -> "Vec":
        """Turned by the angle whose (cos, sin) is `direction`."""
        return Vec(direction.x * self.x - direction.y * self.y,
                   direction.y * self.x + direction.x * self.y)

    def unturned(self, direction: "Vec") -> "Vec":
        """Turned by minus that angle."""
        return Vec(direction.x * self.x + direction.y * self.y,
                   direction.x * self.y - direction.y * self.x)


class Pose(struct.PyTreeNode):
    """Where a body's centre of mass is (m) and how far the body is turned (rad)."""

    at: Vec
    angle: Scalar

    @property
    def direction(self) -> Vec:
        """(cos, sin) of the angle."""
        return Vec(jnp.cos(self.angle), jnp.sin(self.angle))

    def moved(self, motion: "Motion", seconds: Scalar) -> "Pose":
        return Pose(self.at + motion.linear * seconds, self.angle + motion.angular * seconds)


class Motion(struct.PyTreeNode):
    """Velocity of a body's centre of mass (m/s) and its rate of turning (rad/s)."""

    linear: Vec
    angular: Scalar

    def pushed(self, body, impulse: Vec, arm: Vec, turn: Scalar = 0.0) -> "Motion":
        """After an impulse (N s) at `arm` from the centre and a turning impulse (N m s)."""
        return Motion(self.linear + impulse * body.inverse_mass,
                      self.angular + body.inverse_inertia * (arm.cross(impulse) + turn))

    def at(self, arm: Vec) -> Vec:
        """Velocity of the point at `arm` from the centre."""
        return self.linear + arm.spun(self.angular)


def shifted(pose: Pose, body, impulse: Vec, arm: Vec, turn: Scalar = 0.0) -> Pose:
    """A pose corrected as if by an impulse: what `Motion.pushed` is for positions."""
    return Pose(pose.at + impulse * body.inverse_mass,
                pose.angle + body.inverse_inertia * (arm.cross(impulse) + turn))


def clip(x: Scalar, low: Scalar, high: Scalar) -> jax.Array:
    return jnp.minimum(jnp.maximum(x, low), high)


def select(mask: Scalar, yes, no):
    """`jnp.where` over pytrees whose leaves end with the axes of the mask."""
    return jax.tree.map(lambda y, n: jnp.where(mask, y, n), yes, no)


def unstack(tree, count: int) -> list[Any]:
    """The `count` entries along the leading axis."""
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def stack(trees: list):
    """Entries along a new leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def pick(options, index: Scalar):
    """The entry `index` along the leading axis of every leaf.

    A sum over a one-hot mask: XLA keeps its result instead of computing it anew at every use.
    """
    def one(x):
        places = jnp.arange(x.shape[0]).reshape(-1, *(1,) * index.ndim)
        return jnp.where(places == index, x, 0).sum(0)

    return jax.tree.map(one, options)
