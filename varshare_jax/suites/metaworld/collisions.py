"""What MJX collides otherwise than MuJoCo does, put right where it matters to Meta-World.

Which contacts a pair has decides more than its shape:
- Cylinders against boxes and meshes, which MJX lacks. As in MuJoCo there is one contact, where and
  along what line the two overlap least. Two along a bar, as between a capsule and a box, hold a
  finger's tilt that one lets go, and a grasp of the door's handle turns that into centimetres.
- Where two boxes touch at an edge or a corner, MJX fills its four contacts with copies of one or
  two points. Each copy is a contact of its own, so the pair is up to four times as stiff, and the
  copies take places among the deepest that are kept. Here a point counts once.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

_SHORT = 1e-10  # m², squared length below which a vector has no direction
_PROJECTIONS = 3  # of an edge and a rim onto each other
_TILT = 1e-3  # of a cylinder that lies on a face: below it the contact moves to the middle
_TIE = 1e-5  # m, between depths that count as equal
_EVER = 1e3  # m, a depth that is never the least
_SAME = 1e-4  # m between points that count as one
_APART = 1.0  # m, the distance of what does not touch


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Within it MJX collides so: models are made and steps traced with these functions."""
    from mujoco.mjx._src import collision_convex, collision_driver
    from mujoco.mjx._src.types import GeomType

    table = collision_driver._COLLISION_FUNC
    before, box, mesh = dict(table), GeomType.BOX, GeomType.MESH
    round_one = collision_convex.collider(ncon=1)(cylinder_convex)
    table.update({(GeomType.CYLINDER, other): round_one for other in (box, mesh)})
    table.update({pair: once(before[pair]) for pair in ((box, box), (box, mesh), (mesh, mesh))})
    try:
        yield
    finally:
        table.clear()
        table.update(before)


def once(function: Any) -> Callable[..., Any]:
    """MJX's collision `function` of some pairs, but of contacts at one point only the deepest."""
    count: int = function.ncon

    def collide(*args: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        distance, position, frame = function(*args)
        points = position.reshape(-1, count, 3)
        depths = distance.reshape(-1, count)
        one, other = depths[:, :, None], depths[:, None]
        same = jnp.linalg.norm(points[:, :, None] - points[:, None], axis=-1) < _SAME
        before = (other < one) | ((other == one) & jnp.tri(count, k=-1, dtype=bool))
        again = (same & before).any(2)
        return jnp.where(again.ravel(), _APART, distance), position, frame

    vars(collide)["ncon"] = count  # where MJX looks for it
    return collide


@jax.default_matmul_precision("highest")  # depths are millimetres of coordinates
def cylinder_convex(cylinder: Any, convex: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(distance [], position [3], frame [3, 3]) of a cylinder and a convex polytope.

    `cylinder` and `convex` are MJX's `GeomInfo` and `ConvexInfo`. The distance is exact where they
    overlap, but for an edge across a cylinder's rim; where they do not it is a lower bound. The
    frame's first row points from the cylinder into the polytope.
    """
    from mujoco.mjx._src import math

    turn, faces = convex.mat.T, convex.face_normal
    count = len(faces)
    center, axis = turn @ (cylinder.pos - convex.pos), turn @ cylinder.mat[:, 2]
    radius, half = cylinder.size[:2]
    normals, points = _candidates(center, axis, half, radius, convex)
    along = normals @ axis
    across = jnp.sqrt(jnp.maximum(1 - along**2, 0))
    nearest = normals @ center - half * jnp.abs(along) - radius * across
    highest = (normals @ convex.vert.T).max(1)
    depths = highest - nearest
    depths = jnp.where(jnp.sum(normals**2, 1) > 0.5, depths, _EVER)
    least = jnp.argmin(depths)
    # Of directions that are as good, those count whose point touches the other one as well.
    tilts = along[:count, None]
    ends = jnp.clip(tilts / _TILT, -1, 1)
    tips = center - half * ends * axis - radius * _unit(faces - tilts * axis)
    outside = (tips @ faces.T - jnp.sum(faces * convex.face[:, 0], 1)).max(1)
    below = highest[count:] - jnp.sum(normals[count:] * points, 1)
    beyond = jnp.maximum(jnp.abs((points - center) @ axis) - half, 0)
    missed = jnp.concatenate([jnp.maximum(outside, 0), below + beyond])
    share = jax.nn.softmax(-(depths + missed) / _TIE)
    halfway = depths[:, None] / 2 * normals
    middle = jnp.concatenate([tips + halfway[:count], points - halfway[count:]])
    frame = math.make_frame(-(convex.mat @ normals[least]))
    return -depths[least], convex.pos + convex.mat @ (share @ middle), frame


def _candidates(center: jax.Array, axis: jax.Array, half: jax.Array, radius: jax.Array,
                convex: Any) -> tuple[jax.Array, jax.Array]:
    """Directions [K, 3] along which the two may overlap least: out of the polytope's F faces, and
    others (zero where there is none) with the point of it that touches then [K - F, 3].
    """
    from mujoco.mjx._src import math

    starts, stops = jnp.moveaxis(convex.vert[convex.edge], 1, 0)  # [E, 3] each
    edges = stops - starts
    near_axis = center - half * axis, center + half * axis
    crossing = jax.vmap(lambda *edge: math.closest_segment_to_segment_points(
        *edge, *near_axis)[0])(starts, stops)
    on_rim = crossing
    for _ in range(_PROJECTIONS):
        rims, tangents = _rim(on_rim, center, axis, half, radius)
        share = jnp.sum((rims - starts) * edges, 1) / jnp.sum(edges**2, 1)
        on_rim = starts + jnp.clip(share, 0, 1)[:, None] * edges
    radial = center - convex.vert
    radial -= (radial @ axis)[:, None] * axis
    flat = jnp.stack([axis, -axis])
    lowest = convex.vert[jnp.argmax(flat @ convex.vert.T, 1)]
    beside = jnp.concatenate([jnp.cross(edges, axis), jnp.cross(edges, tangents)])
    outwards = jnp.tile(convex.edge_face_normal.sum(1), (2, 1))
    beside *= jnp.sign(jnp.sum(beside * outwards, 1, keepdims=True))
    normals = jnp.concatenate([convex.face_normal, _unit(beside), _unit(radial), flat])
    return normals, jnp.concatenate([crossing, on_rim, convex.vert, lowest])


def _rim(points: jax.Array, center: jax.Array, axis: jax.Array, half: jax.Array,
         radius: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the nearer rim is near points [P, 3], and its tangents there."""
    away = points - center
    height = (away @ axis)[:, None]
    outwards = _unit(away - height * axis)
    rims = center + half * jnp.sign(height) * axis + radius * outwards
    return rims, jnp.cross(outwards, axis)


def _unit(vectors: jax.Array) -> jax.Array:
    """Vectors [K, 3] of length 1; zero where they are too short to have a direction."""
    squares = jnp.sum(vectors**2, 1, keepdims=True)
    long = squares > _SHORT
    return jnp.where(long, vectors / jnp.sqrt(jnp.where(long, squares, 1)), 0)
