"""A step of a lander that touches nothing, in closed form.

In flight the legs turn with the hull, each pressed against its limit by its motor. Three bodies
then have three degrees of freedom, and what Box2D's iterations converge to is the state that is
reached from the unconstrained one with the least kinetic energy. While a leg swings free of its
limit (the first half second of an episode, or after a bounce) the iterations do not converge, and
must be made: contacts.py does.
"""

import jax.numpy as jnp

from varshare_jax.suites.lunar_lander import joints
from varshare_jax.suites.lunar_lander.bodies import (
    DT,
    HULL,
    LEG,
    MAX_MOTOR_IMPULSE,
    MOTOR_MASS,
    MOTOR_SPEEDS,
    TOTAL_MASS,
)
from varshare_jax.suites.lunar_lander.geometry import Motion, Pose, Scalar, Vec


def step(poses: list[Pose], motions: list[Motion], impulses: list[joints.Impulses],
         velocity_iterations: int, position_iterations: int = 1):
    """-> poses, motions, impulses of the joints, whether the assumptions held.

    They do not where a leg swings, where a motor would need more than its torque, or where the
    joints have come apart further than the corrections mend; one is all that flight needs.
    """
    joined = [joints.prepare(k, poses[0], poses[k + 1]) for k in (0, 1)]
    after = _least_energy(joined, motions)
    valid, new_impulses = True, []
    for k, joint in enumerate(joined):
        leg, before = after[k + 1], motions[k + 1]
        point = (leg.linear - before.linear) * LEG.mass
        turn = (leg.angular - before.angular) * LEG.inertia - joint.leg_arm.cross(point)
        motor = _motor(k, impulses[k].motor, turn, velocity_iterations)
        new_impulses.append(joints.Impulses(point, turn - motor, motor))
        pressed = joint.limit * MOTOR_SPEEDS[k] > 0
        valid &= (jnp.abs(motor) <= MAX_MOTOR_IMPULSE) & pressed
    poses = [pose.moved(motion, DT) for pose, motion in zip(poses, after, strict=True)]
    poses, solved = joints.solve_positions([joint.limit for joint in joined], poses,
                                           position_iterations)
    return poses, after, new_impulses, valid & solved


def _least_energy(joined: list[joints.Joint], motions: list[Motion]) -> list[Motion]:
    """Motions that keep momentum and angular momentum and turn the legs with the hull."""
    hull, *legs = motions
    momentum, spin = hull.linear * HULL.mass, hull.angular * HULL.inertia
    inertia, lever = HULL.inertia + 2 * LEG.inertia, Vec(0.0, 0.0)
    aways = [joint.hull_arm - joint.leg_arm for joint in joined]  # from the hull to each leg
    for away, leg in zip(aways, legs, strict=True):
        momentum += leg.linear * LEG.mass
        spin += leg.angular * LEG.inertia + away.cross(leg.linear) * LEG.mass
        inertia += away.dot(away) * LEG.mass
        lever += away * LEG.mass
    mean = momentum * (1 / TOTAL_MASS)
    turning = (spin - lever.cross(mean)) / (inertia - lever.dot(lever) / TOTAL_MASS)
    together = Motion(mean - lever.spun(turning) * (1 / TOTAL_MASS), turning)
    return [together, *(Motion(together.at(away), turning) for away in aways)]


def _motor(index: int, before: Scalar, turn: Scalar, iterations: int) -> Scalar:
    """The motor's share of a joint's turning impulse; the limit has the rest.

    The two share it without moving anything: every iteration shifts the same amount to the motor,
    until its torque is spent.
    """
    shift = iterations * MOTOR_MASS * MOTOR_SPEEDS[index]
    shared = jnp.clip(before + shift, -MAX_MOTOR_IMPULSE, MAX_MOTOR_IMPULSE)
    return jnp.minimum(shared, turn) if index == 0 else jnp.maximum(shared, turn)
