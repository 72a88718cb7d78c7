"""A step of a lander on the ground: Box2D's sequential impulses, then its continuous collisions.

Each leg may touch the two edges that meet at the terrain's point nearest to it; other edges are
out of its reach. Contacts and joints are solved in Box2D's order and by its rules: block solution
of two points, friction before normals, warm starting, a limited correction of positions, and a
second look at legs that went too deep (b2ContactSolver, b2Island, b2World::SolveTOI in 2.3).
"""

from typing import Any

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


class Load(struct.PyTreeNode):
    """Impulses at the points of a contact, N s."""

    friction: tuple[Scalar, Scalar]
    normal: tuple[Scalar, Scalar]


class Memory(struct.PyTreeNode):
    """What one contact of a leg keeps from step to step: leaves [2 points].

    `edge` is the edge that the identities and impulses belong to.
    """

    edge: Scalar
    identities: tuple[Scalar, Scalar]
    load: Load

    @property
    def touching(self) -> Scalar:
        return self.identities[0] != NO_POINT


class Contact(struct.PyTreeNode):
    """A contact in the solver of velocities: one or two points with one normal.

    `slips` and `levers` are the arms of impulses at its points along the ground and away from it;
    `masses` the inverses of what such impulses of 1 N s do there (slips, then normals), 0 for an
    absent point. `xx`, `xy`, `yy` is the matrix of both normals, `determinant` the inverse one;
    `block` says whether they are solved together.
    """

    normal: Vec
    slips: tuple[Scalar, Scalar]
    levers: tuple[Scalar, Scalar]
    masses: tuple[Scalar, Scalar, Scalar, Scalar]
    xx: Scalar
    xy: Scalar
    yy: Scalar
    determinant: Scalar
    block: Scalar


def no_memory(shape: tuple[int, ...]) -> Memory:
    """Nothing touches."""
    zero = jnp.zeros(shape, jnp.float32)
    nothing = jnp.full(shape, NO_POINT, jnp.int32)
    return Memory(jnp.zeros(shape, jnp.int32), (nothing, nothing),
                  Load((zero, zero), (zero, zero)))


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
        one, two = (
            jnp.where(same & (identity == old[0]), impulses[0],
                      jnp.where(same & (identity == old[1]), impulses[1], 0.0))
            for identity in manifold.identities)
        return one, two

    return Memory(edge, manifold.identities,
                  Load(recalled(memory.load.friction), recalled(memory.load.normal)))


def prepare(manifold: Manifold, pose: Pose) -> Contact:
    """Effective masses at a pose of the leg."""
    turn = pose.direction
    one, two = (identity != NO_POINT for identity in manifold.identities)
    reference = select(manifold.on_polygon, manifold.normal.turned(turn), manifold.normal)
    plane = select(manifold.on_polygon, pose.at + manifold.plane.turned(turn), manifold.plane)
    normal = select(manifold.on_polygon, -reference, reference)
    tangent, levers, slip_levers = normal.right(), [], []
    for local in manifold.points:
        point = select(manifold.on_polygon, local, pose.at + local.turned(turn))
        # The middle between both surfaces, which are half a skin off the polygons.
        arm = point - reference * (0.5 * reference.dot(point - plane)) - pose.at
        levers.append(arm.cross(normal))
        slip_levers.append(arm.cross(tangent))
    xx, yy = (_stiffness(lever, lever) for lever in levers)
    xy = _stiffness(*levers)
    determinant = xx * yy - xy * xy
    well_posed = xx * xx < 1000.0 * determinant
    solved = [one, two & well_posed]  # Box2D drops the second point of an ill-conditioned pair
    stiffness = [*(_stiffness(lever, lever) for lever in slip_levers), xx, yy]
    masses: Any = tuple(jnp.where(there, 1 / k, 0.0)
                        for there, k in zip(solved * 2, stiffness, strict=True))
    return Contact(normal, tuple(slip_levers), tuple(levers), masses, xx, xy, yy,
                   jnp.where(solved[1], 1 / determinant, 0.0), solved[1])


def _stiffness(lever: Scalar, other: Scalar) -> Scalar:
    return LEG.inverse_mass + LEG.inverse_inertia * lever * other


def push(contact: Contact, load: Load, leg: Motion) -> Motion:
    """The leg's motion after impulses at the contact's points."""
    normal, tangent = contact.normal, contact.normal.right()
    impulse = tangent * sum(load.friction) + normal * sum(load.normal)
    turn = sum(lever * x for lever, x in zip(contact.slips + contact.levers,
                                             load.friction + load.normal, strict=True))
    return Motion(leg.linear + impulse * LEG.inverse_mass,
                  leg.angular + LEG.inverse_inertia * turn)


def solve_velocity(contact: Contact, load: Load, leg: Motion) -> tuple[Load, Motion]:
    """One iteration: friction of both points in turn, then their normals.

    Friction turns the leg but does not move it along the normal, so only the spin is followed
    from point to point.
    """
    slip, spin = contact.normal.right().dot(leg.linear), leg.angular
    friction: list[Scalar] = []
    moved: Scalar = 0.0
    for i in (0, 1):
        old, most = load.friction[i], FRICTION * load.normal[i]
        speed = slip + LEG.inverse_mass * moved + contact.slips[i] * spin
        new = clip(old - contact.masses[i] * speed, -most, most)
        spin += LEG.inverse_inertia * contact.slips[i] * (new - old)
        moved += new - old
        friction.append(new)
    away = contact.normal.dot(leg.linear)
    normal = _solve_normals(contact, load.normal, *(away + lever * spin
                                                    for lever in contact.levers))
    total = Load((friction[0], friction[1]), normal)
    return total, push(contact, jax.tree.map(jnp.subtract, total, load), leg)


def _solve_normals(contact: Contact, old: tuple[Scalar, Scalar], u: Scalar, v: Scalar):
    """Total normal impulses of both points: the complementarity problem by enumeration."""
    alone = jnp.maximum(old[0] - contact.masses[2] * u, 0.0)
    b = u - contact.xx * old[0] - contact.xy * old[1]
    c = v - contact.xy * old[0] - contact.yy * old[1]
    both = ((contact.xy * c - contact.yy * b) * contact.determinant,
            (contact.xy * b - contact.xx * c) * contact.determinant)
    only_one, only_two = -contact.masses[2] * b, -contact.masses[3] * c
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


def _correct(manifolds: Manifold, legs: Pose, baumgarte: float) -> tuple[Pose, Scalar]:
    """One correction of all points in turn. -> legs, the least separation found for each."""
    def one(carry, given):
        legs, least = carry
        legs, apart = _correct_point(given, legs, baumgarte)
        return (legs, jnp.minimum(least, apart)), None

    def of_both_points(x):
        return jnp.repeat(x, 2, axis=0)

    def in_turn(one, two):  # [2 edges] twice -> [4], the points of an edge side by side
        return jnp.stack([one, two], 1).reshape(4, *one.shape[1:])

    m = manifolds
    given = (*jax.tree.map(of_both_points, (m.on_polygon, m.normal, m.plane)),
             jax.tree.map(in_turn, *m.points), in_turn(*m.identities) != NO_POINT)
    return jax.lax.scan(one, (legs, jnp.zeros_like(legs.angle)), given)[0]


def _correct_point(given: tuple[Scalar, Vec, Vec, Vec, Scalar], leg: Pose,
                   baumgarte: float) -> tuple[Pose, Scalar]:
    on_polygon, normal, plane, point, there = given
    turn = leg.direction
    reference = select(on_polygon, normal.turned(turn), normal)
    plane = select(on_polygon, leg.at + plane.turned(turn), plane)
    at = select(on_polygon, point, leg.at + point.turned(turn))
    normal = select(on_polygon, -reference, reference)
    apart = reference.dot(at - plane) - SKIN
    arm = at - leg.at
    lever = arm.cross(normal)
    wanted = clip(baumgarte * (apart + LINEAR_SLOP), -MAX_LINEAR_CORRECTION, 0.0)
    impulse = jnp.where(there, -wanted / _stiffness(lever, lever), 0.0)
    return shifted(leg, LEG, normal * impulse, arm), jnp.where(there, apart, 0.0)


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
    warm = [joints.warm(joined[k], impulse, limits[k])
            for k, impulse in enumerate(unstack(impulses, 2))]
    motions, after_joints, load = _solve_velocities(
        joined, warm, prepare(manifolds, legs), memories.load, motions, velocity_iterations)
    memories = memories.replace(load=load)
    poses = [pose.moved(motion, DT) for pose, motion in zip(poses, motions, strict=True)]
    (hull, *moved), solved = _solve_positions([joint.limit for joint in joined], manifolds, poses,
                                              position_iterations)
    after, leg_motions, memories, flags = _impact(
        legs, stack(moved), stack(motions[1:]), indices, edges, memories, flags)
    return ([hull, *unstack(after, 2)], [motions[0], *unstack(leg_motions, 2)], after_joints,
            memories, flags, solved)


def _solve_velocities(joined: list, impulses: list, contacts: Contact, load: Load,
                      motions: list[Motion], iterations: int):
    """Warm start and iterations. -> motions, joint impulses (lists), the contacts' load.

    Contacts and load have leaves [2 edges, 2 legs, ...]. In the loop every number is an array of
    its own: XLA makes vector code of that, and none of what picks entries out of stacked ones.
    """
    apart, loads = ([unstack(edge, 2) for edge in unstack(x, 2)] for x in (contacts, load))
    hull, *legs = motions
    for edge in (0, 1):
        legs = [push(apart[edge][k], loads[edge][k], legs[k]) for k in (0, 1)]
    for k in (1, 0):
        hull, legs[k] = joints.push(joined[k], impulses[k], hull, legs[k])

    def iterate(_, carry):
        hull, legs, impulses, loads = carry
        for k in (1, 0):  # Box2D solves the joint made last first
            impulses[k], hull, legs[k] = joints.solve_velocity(k, joined[k], impulses[k], hull,
                                                               legs[k])
        for k in (0, 1):
            for edge in (0, 1):
                loads[edge][k], legs[k] = solve_velocity(apart[edge][k], loads[edge][k],
                                                         legs[k])
        return hull, legs, impulses, loads

    hull, legs, impulses, loads = jax.lax.fori_loop(
        0, iterations, iterate, (hull, legs, impulses, loads))
    return [hull, *legs], impulses, stack([stack(edge) for edge in loads])


def _solve_positions(limits: list[Scalar], manifolds: Manifold, poses: list[Pose],
                     iterations: int):
    """Corrections until all errors are small. -> poses, whether they became so."""
    def iterate(poses):
        hull, *legs = poses
        legs, least = _correct(manifolds, stack(legs), _STEP_BAUMGARTE)
        poses, solved = joints.solve_both(limits, [hull, *unstack(legs, 2)])
        return poses, solved & (least.min(0) >= -3 * LINEAR_SLOP)

    return joints.corrected(iterate, poses, iterations, limits[0].shape)


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
        for edge, contact in enumerate(contacts):
            loads[edge], leg = solve_velocity(contact, loads[edge], leg)
        return leg, loads

    motion, _ = jax.lax.fori_loop(0, _IMPACT_VELOCITY_ITERATIONS, iterate,
                                  (motion, [Load((zero, zero), (zero, zero))] * 2))
    return (pose.moved(motion, (1 - share) * DT), motion, recall(memories, indices, manifolds),
            flagged(memories, indices, manifolds, flags),
            (manifolds.identities[0] != NO_POINT).any(0))


def _solve_impact_positions(manifolds: Manifold, legs: Pose) -> Pose:
    """Corrections of legs [2] at the moment of an impact."""
    def correct(legs):
        legs, least = _correct(manifolds, legs, _IMPACT_BAUMGARTE)
        return legs, least >= -1.5 * LINEAR_SLOP

    return joints.corrected(correct, legs, _IMPACT_POSITION_ITERATIONS, legs.angle.shape)[0]
