"""A step of a lander on the ground: Box2D's sequential impulses, then its continuous collisions.

Each leg may touch the two edges that meet at the terrain's point nearest to it; other edges are
out of its reach. Contacts and joints are solved in Box2D's order and by its rules: block solution
of two points, friction before normals, warm starting, a limited correction of positions, and a
second look at legs that went too deep (b2ContactSolver, b2Island, b2World::SolveTOI in 2.3).
"""

import jax
import jax.numpy as jnp
from flax import struct

from varshare_jax.suites.lunar_lander import joints
from varshare_jax.suites.lunar_lander.batching import where_needed
from varshare_jax.suites.lunar_lander.bodies import (
    CHUNKS,
    DT,
    FRICTION,
    LEG,
    LINEAR_SLOP,
    MAX_LINEAR_CORRECTION,
    SKIN,
    SPACING,
)
from varshare_jax.suites.lunar_lander.collision import (
    NO_POINT,
    Edge,
    Manifold,
    collide,
    edge_at,
    separation,
)
from varshare_jax.suites.lunar_lander.geometry import (
    Motion,
    Pose,
    Scalar,
    Vec,
    clip,
    select,
    shifted,
    stack,
    unstack,
)

_STEP_BAUMGARTE, _IMPACT_BAUMGARTE = 0.2, 0.75
_IMPACT_POSITION_ITERATIONS, _IMPACT_VELOCITY_ITERATIONS = 20, 20
_IMPACT_DISTANCE, _IMPACT_TOLERANCE = 0.005, 0.00125  # m


@struct.dataclass
class Memory:
    """What one contact of a leg keeps from step to step: leaves [2 points].

    `edge` is the edge that the identities and impulses belong to.
    """

    edge: Scalar
    identities: tuple[Scalar, Scalar]
    normal: tuple[Scalar, Scalar]
    friction: tuple[Scalar, Scalar]

    @property
    def touching(self) -> Scalar:
        return self.identities[0] != NO_POINT


@struct.dataclass
class Point:
    """A contact point in the solver of velocities. An absent one has no mass, so no effect."""

    arm: Vec
    normal_mass: Scalar
    friction_mass: Scalar


@struct.dataclass
class Contact:
    """A contact in the solver of velocities: one or two points with one normal.

    `xx`, `xy`, `yy` is the matrix from normal impulses to normal velocities, `determinant` its
    inverse one; `block` says whether both points are solved together.
    """

    normal: Vec
    points: tuple[Point, Point]
    xx: Scalar
    xy: Scalar
    yy: Scalar
    determinant: Scalar
    block: Scalar


@struct.dataclass
class Loads:
    """Impulses of a contact's two points, N s."""

    normal: tuple[Scalar, Scalar]
    friction: tuple[Scalar, Scalar]


def no_memory(shape: tuple[int, ...]) -> Memory:
    """Nothing touches."""
    zero = jnp.zeros(shape, jnp.float32)
    nothing = jnp.full(shape, NO_POINT, jnp.int32)
    return Memory(jnp.zeros(shape, jnp.int32), (nothing, nothing), (zero, zero), (zero, zero))


def nearest_edges(terrain: jax.Array, body: Pose) -> tuple[Scalar, Edge]:
    """The edges left and right of the terrain's point nearest to a body, even index first.

    -> indices [2, ...], edges with leaves [2, ...] for a pose [...].

    An edge keeps its place while the leg moves on, which is how its impulses are found again.
    """
    point = clip(jnp.round(body.at.x / SPACING), 1, CHUNKS - 2).astype(jnp.int32)
    even = point - (point & 1)
    indices = jnp.stack([even, 2 * point - 1 - even])
    return indices, edge_at(terrain, indices)


def recall(memory: Memory, edge: Scalar, manifold: Manifold) -> Memory:
    """The memory of a manifold, with the impulses of the points that were there before."""
    same = memory.edge == edge
    old = memory.identities

    def recalled(impulses):
        return tuple(
            jnp.where(same & (identity == old[0]), impulses[0],
                      jnp.where(same & (identity == old[1]), impulses[1], 0.0))
            for identity in manifold.identities)

    return Memory(edge, manifold.identities, recalled(memory.normal), recalled(memory.friction))


def prepare(manifold: Manifold, pose: Pose) -> Contact:
    """Effective masses at a pose of the leg."""
    turn = pose.direction
    one, two = (identity != NO_POINT for identity in manifold.identities)
    reference = select(manifold.on_polygon, manifold.normal.turned(turn), manifold.normal)
    plane = select(manifold.on_polygon, pose.at + manifold.plane.turned(turn), manifold.plane)
    normal = select(manifold.on_polygon, -reference, reference)
    points, levers = [], []
    for there, local in zip((one, two), manifold.points, strict=True):
        point = select(manifold.on_polygon, local, pose.at + local.turned(turn))
        # The middle between both surfaces, which are half a skin off the polygons.
        arm = point - reference * (0.5 * reference.dot(point - plane)) - pose.at
        lever, friction_lever = arm.cross(normal), arm.cross(normal.right())
        points.append(Point(arm, jnp.where(there, 1 / _stiffness(lever, lever), 0.0),
                            jnp.where(there, 1 / _stiffness(friction_lever, friction_lever), 0.0)))
        levers.append(lever)
    xx, yy = (_stiffness(lever, lever) for lever in levers)
    xy = _stiffness(*levers)
    determinant = xx * yy - xy * xy
    block = two & (xx * xx < 1000.0 * determinant)
    # Box2D drops the second point of an ill-conditioned pair.
    alone = two & ~block
    points[1] = points[1].replace(
        normal_mass=jnp.where(alone, 0.0, points[1].normal_mass),
        friction_mass=jnp.where(alone, 0.0, points[1].friction_mass))
    return Contact(normal, tuple(points), xx, xy, yy, jnp.where(block, 1 / determinant, 0.0), block)


def _stiffness(lever: Scalar, other: Scalar) -> Scalar:
    return LEG.inverse_mass + LEG.inverse_inertia * lever * other


def push(contact: Contact, loads: Loads, leg: Motion) -> Motion:
    """The leg's motion after these impulses."""
    tangent = contact.normal.right()
    for point, normal, friction in zip(contact.points, loads.normal, loads.friction, strict=True):
        leg = leg.pushed(LEG, contact.normal * normal + tangent * friction, point.arm)
    return leg


def solve_velocity(contact: Contact, loads: Loads, leg: Motion) -> tuple[Loads, Motion]:
    """One iteration: friction of both points, then their normals."""
    tangent, frictions = contact.normal.right(), []
    for point, normal, friction in zip(contact.points, loads.normal, loads.friction, strict=True):
        wanted = friction - point.friction_mass * leg.at(point.arm).dot(tangent)
        wanted = clip(wanted, -FRICTION * normal, FRICTION * normal)
        leg = leg.pushed(LEG, tangent * (wanted - friction), point.arm)
        frictions.append(wanted)
    normals = _solve_normals(contact, loads.normal, leg)
    for point, new, old in zip(contact.points, normals, loads.normal, strict=True):
        leg = leg.pushed(LEG, contact.normal * (new - old), point.arm)
    return Loads(normals, tuple(frictions)), leg


def _solve_normals(contact: Contact, old: tuple, leg: Motion) -> tuple[Scalar, Scalar]:
    """Total normal impulses of both points: the complementarity problem by enumeration."""
    one, two = contact.points
    u, v = (leg.at(point.arm).dot(contact.normal) for point in contact.points)
    alone = jnp.maximum(old[0] - one.normal_mass * u, 0.0)
    b = u - contact.xx * old[0] - contact.xy * old[1]
    c = v - contact.xy * old[0] - contact.yy * old[1]
    both = ((contact.xy * c - contact.yy * b) * contact.determinant,
            (contact.xy * b - contact.xx * c) * contact.determinant)
    only_one, only_two = -one.normal_mass * b, -two.normal_mass * c
    takes_both = (both[0] >= 0) & (both[1] >= 0)
    takes_one = (only_one >= 0) & (contact.xy * only_one + c >= 0)
    takes_two = (only_two >= 0) & (contact.xy * only_two + b >= 0)
    neither = (b >= 0) & (c >= 0)
    zero = jnp.zeros_like(b)
    x = jnp.where(takes_both, both[0], jnp.where(takes_one, only_one, jnp.where(
        takes_two | neither, zero, old[0])))
    y = jnp.where(takes_both, both[1], jnp.where(takes_one, zero, jnp.where(
        takes_two, only_two, jnp.where(neither, zero, old[1]))))
    return jnp.where(contact.block, x, alone), jnp.where(contact.block, y, zero)


def solve_position(manifold: Manifold, leg: Pose, baumgarte: float) -> tuple[Pose, Scalar]:
    """One correction of both points. -> the pose and the least separation found."""
    least = 0.0
    for identity, point in zip(manifold.identities, manifold.points, strict=True):
        turn = leg.direction
        there, on_polygon = identity != NO_POINT, manifold.on_polygon
        reference = select(on_polygon, manifold.normal.turned(turn), manifold.normal)
        plane = select(on_polygon, leg.at + manifold.plane.turned(turn), manifold.plane)
        at = select(on_polygon, point, leg.at + point.turned(turn))
        normal = select(on_polygon, -reference, reference)
        apart = reference.dot(at - plane) - SKIN
        least = jnp.minimum(least, jnp.where(there, apart, 0.0))
        arm = at - leg.at
        lever = arm.cross(normal)
        wanted = clip(baumgarte * (apart + LINEAR_SLOP), -MAX_LINEAR_CORRECTION, 0.0)
        impulse = jnp.where(there, -wanted / _stiffness(lever, lever), 0.0)
        leg = shifted(leg, LEG, normal * impulse, arm)
    return leg, least


def impact_time(before: Pose, after: Pose, edge: Edge) -> tuple[Scalar, Scalar]:
    """The share of a step at which a leg comes too near to an edge. -> share, whether it does.

    A leg that overlapped it before is left alone, as Box2D does.
    """
    start, end = separation(LEG, before, edge), separation(LEG, after, edge)
    share = clip((start - _IMPACT_DISTANCE) / jnp.maximum(start - end, 1e-9), 0.0, 1.0)
    near = start < _IMPACT_DISTANCE + _IMPACT_TOLERANCE
    hits = (start > 0) & (near | (end < _IMPACT_DISTANCE - _IMPACT_TOLERANCE))
    return jnp.where(hits, jnp.where(near, 0.0, share), 1.0), hits


def between(before: Pose, after: Pose, share: Scalar) -> Pose:
    return Pose(before.at + (after.at - before.at) * share,
                before.angle + (after.angle - before.angle) * share)


def flagged(memories: Memory, edges: Scalar, manifolds: Manifold, flags: Scalar) -> Scalar:
    """Flags [2 legs] after contacts (axes [2 edges, 2 legs]) began and ended.

    What ends has the last word: the original clears a leg's flag when any of its contacts ends,
    though another may hold.
    """
    same = memories.edge == edges
    touches = manifolds.identities[0] != NO_POINT
    begun = touches & ~(memories.touching & same)
    ended = memories.touching & ~(touches & same)
    return (flags | begun.any(0)) & ~ended.any(0)


def step(hull: Pose, legs: Pose, hull_motion: Motion, leg_motions: Motion,
         impulses: joints.Impulses, limits: Scalar, memories: Memory, flags: Scalar,
         terrain: jax.Array, velocity_iterations: int, position_iterations: int):
    """One step. -> poses, motions (lists of hull and legs), joint impulses (a list), memories,
    flags, whether positions are solved.

    Legs, impulses, limits and flags have leaves [2 legs], memories [2 edges, 2 legs]. Motions
    already hold what forces and gravity did; `limits` are the states of the last step.
    """
    indices, edges = nearest_edges(terrain, legs)
    manifolds = collide(LEG, legs, edges)
    flags = flagged(memories, indices, manifolds, flags)
    memories = recall(memories, indices, manifolds)
    poses, motions = [hull, *unstack(legs, 2)], [hull_motion, *unstack(leg_motions, 2)]
    joined = [joints.prepare(k, poses[0], poses[k + 1]) for k in (0, 1)]
    impulses = [joints.warm(joined[k], impulse, limits[k])
                for k, impulse in enumerate(unstack(impulses, 2))]
    motions, impulses, loads = _solve_velocities(
        joined, impulses, prepare(manifolds, legs), Loads(memories.normal, memories.friction),
        motions, velocity_iterations)
    memories = memories.replace(normal=loads.normal, friction=loads.friction)
    poses = [pose.moved(motion, DT) for pose, motion in zip(poses, motions, strict=True)]
    poses, solved = _solve_positions([j.limit for j in joined], manifolds, poses,
                                     position_iterations)
    after, leg_motions, memories, flags = _impact(
        legs, stack(poses[1:]), stack(motions[1:]), indices, edges, memories, flags)
    return ([poses[0], *unstack(after, 2)], [motions[0], *unstack(leg_motions, 2)], impulses,
            memories, flags, solved)


def _solve_velocities(joined: list, impulses: list, contacts: Contact, loads: Loads,
                      motions: list[Motion], iterations: int):
    """Warm start and iterations. -> motions, joint impulses, loads [2 edges, 2 legs]."""
    hull, *legs = motions
    contacts, loads = unstack(contacts, 2), unstack(loads, 2)
    legs = stack(legs)
    for contact, load in zip(contacts, loads, strict=True):
        legs = push(contact, load, legs)
    legs = unstack(legs, 2)
    for k in (1, 0):
        hull, legs[k] = joints.push(joined[k], hull, legs[k], impulses[k].point, impulses[k].turn)

    def iterate(_, carry):
        hull, legs, impulses, loads = carry
        legs, impulses, loads = unstack(legs, 2), list(impulses), list(loads)
        for k in (1, 0):  # Box2D solves the joint made last first
            impulses[k], hull, legs[k] = joints.solve_velocity(k, joined[k], impulses[k], hull,
                                                               legs[k])
        legs = stack(legs)  # contacts of one leg know nothing of the other's
        for i, contact in enumerate(contacts):
            loads[i], legs = solve_velocity(contact, loads[i], legs)
        return hull, legs, impulses, loads

    hull, legs, impulses, loads = jax.lax.fori_loop(0, iterations, iterate,
                                                    (hull, stack(legs), impulses, loads))
    return [hull, *unstack(legs, 2)], impulses, stack(loads)


def _solve_positions(limits: list, manifolds: Manifold, poses: list[Pose], iterations: int):
    """Corrections until all errors are small. -> poses, whether they became so."""
    manifolds = unstack(manifolds, 2)

    def iterate(old):
        hull, legs = old
        legs, least = _correct(manifolds, legs, _STEP_BAUMGARTE)
        legs, solved = unstack(legs, 2), least.min(0) >= -3 * LINEAR_SLOP
        for k in (1, 0):
            hull, legs[k], joint_solved = joints.solve_position(k, limits[k], hull, legs[k])
            solved &= joint_solved
        return (hull, stack(legs)), solved

    (hull, legs), solved = joints.corrected(iterate, (poses[0], stack(poses[1:])), iterations,
                                            limits[0].shape)
    return [hull, *unstack(legs, 2)], solved


def _correct(manifolds: list[Manifold], legs: Pose, baumgarte: float) -> tuple[Pose, Scalar]:
    """One correction of all contacts. -> legs, the least separation found for each."""
    least = jnp.zeros_like(legs.angle)
    for manifold in manifolds:
        legs, apart = solve_position(manifold, legs, baumgarte)
        least = jnp.minimum(least, apart)
    return legs, least


def _impact(before: Pose, after: Pose, motion: Motion, indices: Scalar, edges: Edge,
            memories: Memory, flags: Scalar):
    """Legs that went too deep are taken back to where they hit and go on from there, alone.

    Joints take no part; the next step draws the bodies together again.
    """
    times, hits = impact_time(before, after, edges)
    share = times.min(0)
    given = between(before, after, share), share, motion, indices, edges, memories, flags
    otherwise = after, motion, memories, flags, jnp.zeros_like(flags)
    *hit, solid = where_needed(lambda x: _rebound(*x), hits.any(0), given, otherwise, chunk=64)
    return select(solid, tuple(hit), otherwise[:-1])


def _rebound(pose: Pose, share: Scalar, motion: Motion, indices: Scalar, edges: Edge,
             memories: Memory, flags: Scalar):
    """The rest of a step after an impact. -> pose, motion, memories, flags, whether it touched."""
    manifolds = collide(LEG, pose, edges)
    pose = _solve_impact_positions(manifolds, pose)
    contacts = unstack(prepare(manifolds, pose), 2)
    zero = jnp.zeros_like(share)

    def iterate(_, carry):
        leg, loads = carry
        loads = list(loads)
        for i, contact in enumerate(contacts):
            loads[i], leg = solve_velocity(contact, loads[i], leg)
        return leg, loads

    motion, _ = jax.lax.fori_loop(0, _IMPACT_VELOCITY_ITERATIONS, iterate,
                                  (motion, [Loads((zero, zero), (zero, zero))] * 2))
    return (pose.moved(motion, (1 - share) * DT), motion, recall(memories, indices, manifolds),
            flagged(memories, indices, manifolds, flags),
            (manifolds.identities[0] != NO_POINT).any(0))


def _solve_impact_positions(manifolds: Manifold, legs: Pose) -> Pose:
    """Corrections of legs [2] at the moment of an impact."""
    manifolds = unstack(manifolds, 2)

    def correct(legs):
        legs, least = _correct(manifolds, legs, _IMPACT_BAUMGARTE)
        return legs, least >= -1.5 * LINEAR_SLOP

    return joints.corrected(correct, legs, _IMPACT_POSITION_ITERATIONS, legs.angle.shape)[0]
