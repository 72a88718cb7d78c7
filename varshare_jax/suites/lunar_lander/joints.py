"""The revolute joints between hull and legs: point, limit and motor, by sequential impulses.

The constraints and the order of their solution are those of Box2D 2.3's b2RevoluteJoint (Catto
2009, "Modeling and Solving Constraints"). A limit's state is -1 (at the lower one), 0 or +1.
"""

import jax
import jax.numpy as jnp
from flax import struct

from varshare_jax.suites.lunar_lander.bodies import (
    ANGULAR_SLOP,
    HULL,
    HULL_ANCHOR,
    LEG,
    LEG_ANCHORS,
    LINEAR_SLOP,
    LOWER,
    MAX_ANGULAR_CORRECTION,
    MAX_MOTOR_IMPULSE,
    MOTOR_MASS,
    MOTOR_SPEEDS,
    UPPER,
)
from varshare_jax.suites.lunar_lander.geometry import (
    Motion,
    Pose,
    Scalar,
    Vec,
    clip,
    select,
    shifted,
)


class Impulses(struct.PyTreeNode):
    """What a joint exerted on its leg in a step: N s at the point, N m s by limit and motor."""

    point: Vec
    limit: Scalar
    motor: Scalar

    @property
    def turn(self) -> Scalar:
        return self.limit + self.motor


class Joint(struct.PyTreeNode):
    """A joint at the poses of the start of a step.

    The effective mass of point and angle is the inverse of [[k, c], [cᵀ, i]] with the 2 × 2
    matrix k, the coupling c and the sum i of the inverse inertias.
    """

    hull_arm: Vec
    leg_arm: Vec
    limit: Scalar
    xx: Scalar
    xy: Scalar
    yy: Scalar
    coupling: Vec
    determinant: Scalar
    angle_mass: Scalar


def prepare(index: int, hull: Pose, leg: Pose) -> Joint:
    """The joint of leg `index` at these poses."""
    a, b = HULL_ANCHOR.turned(hull.direction), LEG_ANCHORS[index].turned(leg.direction)
    xx, xy, yy = _point_matrix(a, b)
    c = Vec(-a.y * HULL.inverse_inertia - b.y * LEG.inverse_inertia,
            a.x * HULL.inverse_inertia + b.x * LEG.inverse_inertia)
    inverse_determinant = 1 / (xx * yy - xy * xy)
    # Schur complement of the point in the angle: the mass that turns once the point holds.
    held = (yy * c.x * c.x - 2 * xy * c.x * c.y + xx * c.y * c.y) * inverse_determinant
    return Joint(a, b, limit_state(index, hull, leg), xx, xy, yy, c, inverse_determinant,
                 1 / (1 / MOTOR_MASS - held))


def limit_state(index: int, hull: Pose, leg: Pose) -> Scalar:
    angle = leg.angle - hull.angle
    return jnp.where(angle <= LOWER[index], -1.0, jnp.where(angle >= UPPER[index], 1.0, 0.0))


def solve_point(joint: Joint, velocity: Vec) -> Vec:
    """The impulse that takes away a relative velocity of the joint's two points."""
    return Vec(joint.xy * velocity.y - joint.yy * velocity.x,
               joint.xy * velocity.x - joint.xx * velocity.y) * joint.determinant


def push(joint: Joint, impulses: Impulses, hull: Motion, leg: Motion) -> tuple[Motion, Motion]:
    """Motions of hull and leg after the joint's impulses."""
    return (hull.pushed(HULL, -impulses.point, joint.hull_arm, -impulses.turn),
            leg.pushed(LEG, impulses.point, joint.leg_arm, impulses.turn))


def solve_velocity(index: int, joint: Joint, impulses: Impulses, hull: Motion, leg: Motion):
    """One iteration: the motor, then point and limit together. -> impulses, hull, leg."""
    spin = leg.angular - hull.angular
    motor = clip(impulses.motor - MOTOR_MASS * (spin - MOTOR_SPEEDS[index]),
                 -MAX_MOTOR_IMPULSE, MAX_MOTOR_IMPULSE)
    turn = motor - impulses.motor
    slip = leg.at(joint.leg_arm) - hull.at(joint.hull_arm) + joint.coupling * turn
    free = solve_point(joint, slip)
    limit = impulses.limit - joint.angle_mass * (
        spin + turn * (1 / MOTOR_MASS) + joint.coupling.dot(free))
    limit = jnp.where(joint.limit * limit < 0, limit, 0.0)  # lower limits push up, upper ones down
    change = limit - impulses.limit
    point = solve_point(joint, slip + joint.coupling * change)
    hull, leg = push(joint, Impulses(point, change, turn), hull, leg)
    return Impulses(impulses.point + point, limit, motor), hull, leg


def solve_position(index: int, limit: Scalar, hull: Pose, leg: Pose):
    """One iteration of joint `index`. -> hull, leg, whether the errors before were in the slop."""
    angle = leg.angle - hull.angle
    below, above = angle - LOWER[index], angle - UPPER[index]
    error = jnp.where(limit < 0, -below, jnp.where(limit > 0, above, 0.0))
    wanted = jnp.where(limit < 0, clip(below + ANGULAR_SLOP, -MAX_ANGULAR_CORRECTION, 0.0),
                       jnp.where(limit > 0, clip(above - ANGULAR_SLOP, 0.0,
                                                 MAX_ANGULAR_CORRECTION), 0.0))
    turn = -MOTOR_MASS * wanted
    hull = hull.replace(angle=hull.angle - HULL.inverse_inertia * turn)
    leg = leg.replace(angle=leg.angle + LEG.inverse_inertia * turn)

    a, b = HULL_ANCHOR.turned(hull.direction), LEG_ANCHORS[index].turned(leg.direction)
    gap = leg.at + b - hull.at - a
    xx, xy, yy = _point_matrix(a, b)
    impulse = Vec(xy * gap.y - yy * gap.x, xy * gap.x - xx * gap.y) * (1 / (xx * yy - xy * xy))
    solved = (gap.dot(gap) <= LINEAR_SLOP**2) & (error <= ANGULAR_SLOP)
    return shifted(hull, HULL, -impulse, a), shifted(leg, LEG, impulse, b), solved


def solve_both(limits: list[Scalar], poses: list[Pose]):
    """One iteration of both joints, the one made last first. -> poses, whether both were solved."""
    hull, *legs = poses
    solved = True
    for k in (1, 0):
        hull, legs[k], within = solve_position(k, limits[k], hull, legs[k])
        solved &= within
    return [hull, *legs], solved


def solve_positions(limits: list[Scalar], poses: list[Pose], iterations: int):
    """Iterations of both joints until their errors are small. -> poses, whether they became so."""
    if iterations == 1:
        return solve_both(limits, poses)
    return corrected(lambda poses: solve_both(limits, poses), poses, iterations, limits[0].shape)


def corrected(iterate, start, iterations: int, shape: tuple[int, ...]):
    """`iterate(x) -> (x, solved)` until it is solved for all of a batch, each keeping its own."""
    def body(carry):
        count, old, done = carry
        new, solved = iterate(old)
        return count + 1, select(done, old, new), done | solved

    def unsolved(carry):
        return (carry[0] < iterations) & ~carry[2].all()

    return jax.lax.while_loop(unsolved, body, (0, start, jnp.zeros(shape, bool)))[1:]


def _point_matrix(a: Vec, b: Vec) -> tuple[Scalar, Scalar, Scalar]:
    """The symmetric matrix from an impulse at the joint to the velocity between its points."""
    mass = HULL.inverse_mass + LEG.inverse_mass
    return (mass + HULL.inverse_inertia * a.y * a.y + LEG.inverse_inertia * b.y * b.y,
            -HULL.inverse_inertia * a.x * a.y - LEG.inverse_inertia * b.x * b.y,
            mass + HULL.inverse_inertia * a.x * a.x + LEG.inverse_inertia * b.x * b.x)


def warm(joint: Joint, impulses: Impulses, state_before: Scalar) -> Impulses:
    """The last step's impulses as a first guess; a limit's is dropped when its state changed."""
    kept = (joint.limit != 0) & (joint.limit == state_before)
    return impulses.replace(limit=select(kept, impulses.limit, jnp.zeros_like(impulses.limit)))
