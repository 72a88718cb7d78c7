"""Where a polygon touches an edge of the terrain: separating axes, then clipping.

The terrain is a row of edges that know nothing of each other and are solid from both sides. As in
Box2D 2.3 (b2CollideEdge) a contact has up to two points, found by clipping the shape that faces
the reference face against it.
"""

import jax
import jax.numpy as jnp
from flax import struct

from varshare_jax.suites.lunar_lander.bodies import CHUNKS, SKIN, SPACING, Body
from varshare_jax.suites.lunar_lander.geometry import Pose, Scalar, Vec, pick, select, stack

_CLIPPED = 8  # offsets of the three families of point identities, see `Manifold`
_ON_FACE = 16
NO_POINT = -1


class Edge(struct.PyTreeNode):
    """One edge of the terrain, from left to right."""

    left: Vec
    right: Vec


class _Face(struct.PyTreeNode):
    """A reference face and what is clipped against it, in world coordinates.

    `start` and `end` bound the other shape's segment, `identities` tell its features; `sides` are
    points on the two planes that bound the face, `clipped` the families of what they cut off.
    """

    normal: Vec
    plane: Vec
    start: Vec
    end: Vec
    identities: tuple[Scalar, Scalar]
    sides: tuple[Vec, Vec]
    clipped: tuple[Scalar, Scalar]


class Manifold(struct.PyTreeNode):
    """Contact of one polygon with one edge.

    The reference face belongs to the edge or to the polygon (`on_polygon`). The constraint holds
    `points` of the other shape away from it. For a face of the terrain `normal` and `plane` are in
    world coordinates and `points` in the polygon's; for a face of the polygon it is the other way
    round. A point's identity says which features made it, so that the next step can find its
    impulse again; NO_POINT where there is none, and a single point comes first.
    """

    on_polygon: Scalar
    normal: Vec
    plane: Vec
    points: tuple[Vec, Vec]
    identities: tuple[Scalar, Scalar]


def edge_at(terrain: jax.Array, index: Scalar) -> Edge:
    """Edge `index` of a terrain [11]."""
    x = index * SPACING
    return Edge(Vec(x, height_of(terrain, index)), Vec(x + SPACING, height_of(terrain, index + 1)))


def height_of(terrain: jax.Array, index: Scalar) -> Scalar:
    """Height of the point `index` of a terrain [11]; selects rather than gathers."""
    return pick(terrain.reshape(CHUNKS, *(1,) * (index.ndim - terrain.ndim + 1),
                                *terrain.shape[1:]), index)


def corners(body: Body, pose: Pose) -> tuple[Vec, Vec]:
    """Vertices and face normals in world coordinates, leaves [V]. Face i begins at vertex i."""
    turn, axes = pose.direction, (1,) * jnp.ndim(pose.angle)
    vertices, normals = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32).reshape(-1, *axes), (body.vertices, body.normals))
    return pose.at + vertices.turned(turn), normals.turned(turn)


def collide(body: Body, pose: Pose, edge: Edge) -> Manifold:
    """The contact of a polygon with an edge of the terrain.

    The edge may have axes before those of the pose: several edges for one polygon.
    """
    pose = _beside(pose, edge)
    vertices, normals = corners(body, pose)
    normal = _facing(pose, edge)
    apart_edge = normal.dot(vertices - edge.left).min(0)
    apart_faces = _from_faces(vertices, normals, edge)
    apart_polygon, face = apart_faces.max(0), apart_faces.argmax(0)
    on_polygon = apart_polygon > 0.98 * apart_edge + 0.001  # Box2D's preference for the edge
    # Chosen before clipping, so that the long part is there once.
    chosen = pick(stack([_edge_face(normal, vertices, normals, edge),
                         _polygon_face(vertices, normals, face, edge)]), on_polygon)
    reference, plane = chosen.normal, chosen.plane
    (start, end), identities, clipped = _clip(chosen)
    touching = clipped & (jnp.maximum(apart_edge, apart_polygon) <= SKIN)
    near = [touching & (reference.dot(p - plane) <= SKIN) for p in (start, end)]
    points = (select(near[0], start, end), end)
    identities = (jnp.where(near[0], identities[0], jnp.where(near[1], identities[1], NO_POINT)),
                  jnp.where(near[0] & near[1], identities[1], NO_POINT))
    turn = pose.direction
    local = (reference.unturned(turn), (plane - pose.at).unturned(turn), points)
    world = (reference, plane, tuple((p - pose.at).unturned(turn) for p in points))
    normal, plane, points = select(on_polygon, local, world)
    return Manifold(on_polygon, normal, plane, points, identities)


def separation(body: Body, pose: Pose, edge: Edge) -> Scalar:
    """The largest gap between both along any axis that could separate them, in metres.

    It is the distance unless two corners face each other, and negative when they overlap.
    """
    pose = _beside(pose, edge)
    vertices, normals = corners(body, pose)
    apart = _facing(pose, edge).dot(vertices - edge.left).min(0)
    return jnp.maximum(apart, _from_faces(vertices, normals, edge).max(0))


def _beside(pose: Pose, edge: Edge) -> Pose:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, edge.left.x.shape), pose)


def _facing(pose: Pose, edge: Edge) -> Vec:
    """The edge's normal on the side of the polygon's centre."""
    along = edge.right - edge.left
    down = along.right() * (1 / jnp.sqrt(along.dot(along)))
    below = down.dot(pose.at - edge.left) >= 0
    return select(below, down, -down)


def _from_faces(vertices: Vec, normals: Vec, edge: Edge) -> Scalar:
    """How far the edge is outside each face of the polygon [V]."""
    return jnp.minimum(normals.dot(edge.left - vertices), normals.dot(edge.right - vertices))


def _following(vertices: Vec) -> Vec:
    return jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), vertices)


def _edge_face(normal: Vec, vertices: Vec, normals: Vec, edge: Edge) -> _Face:
    """The edge as reference; the polygon's face that looks most against it is clipped."""
    face = normals.dot(normal).argmin(0)
    start, end = pick((vertices, _following(vertices)), face)
    below = normal.y < 0
    following = jnp.where(face == len(normals.x) - 1, 0, face + 1)
    family = jnp.where(below, 0, 4)
    return _Face(normal, edge.left, start, end, (face, following),
                 select(below, (edge.left, edge.right), (edge.right, edge.left)),
                 (_CLIPPED + family, _CLIPPED + 4 - family))


def _polygon_face(vertices: Vec, normals: Vec, face: Scalar, edge: Edge) -> _Face:
    """A face of the polygon as reference; the edge is clipped."""
    vertex, normal, following = pick((vertices, normals, _following(vertices)), face)
    family = jnp.full_like(face, _ON_FACE + 4)
    return _Face(normal, vertex, edge.left, edge.right, (_ON_FACE + face, _ON_FACE + face),
                 (vertex, following), (family, family + 4))


def _clip(face: _Face):
    """The segment between the planes beside the face. -> ends, identities, whether any is left."""
    axis, ends, identities = face.normal.right(), (face.start, face.end), face.identities
    ends, identities, some = _cut(ends, identities, axis, face.sides[0], face.clipped[0])
    ends, identities, more = _cut(ends, identities, -axis, face.sides[1], face.clipped[1])
    return ends, identities, some & more


def _cut(ends, identities, axis: Vec, side: Vec, family: Scalar):
    """Cuts away what is beyond one plane. An end that remains comes before the new one."""
    beyond = [axis.dot(p - side) for p in ends]
    crosses = beyond[0] * beyond[1] < 0
    share = beyond[0] / jnp.where(crosses, beyond[0] - beyond[1], 1.0)
    new = ends[0] + (ends[1] - ends[0]) * share
    kept = select(beyond[0] <= 0, (ends[0], identities[0]), (ends[1], identities[1]))
    points = kept[0], select(crosses, new, ends[1])
    identities = kept[1], jnp.where(crosses, family + (identities[0] & 3), identities[1])
    return points, identities, crosses | ((beyond[0] <= 0) & (beyond[1] <= 0))
