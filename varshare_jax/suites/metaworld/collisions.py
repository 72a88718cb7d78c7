"""What MJX collides otherwise than MuJoCo does, put right where it matters to Meta-World.

Which contacts a pair has decides more than its shape:
- Cylinders against boxes and meshes, which MJX lacks. As in MuJoCo there is one contact, where and
  along what line the two overlap least, and with boxes more of them where the two still touch when
  either is turned a little: a puck between two fingers is held by three at one end of its height
  and one at the other, a bar that tilts by one.
- Boxes against boxes (`boxes`).
- Where a box and a mesh touch at an edge or a corner, MJX fills its four contacts with copies of
  one or two points. Each copy is a contact of its own, so the pair is up to four times as stiff,
  and the copies take places among the deepest that are kept. Here a point counts once.
- Capsules touch boxes a margin early, as they do in MuJoCo.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.metaworld import boxes
from varshare_jax.suites.metaworld.boxes import APART

_SHORT = 1e-10  # m², squared length below which a vector has no direction
_PROJECTIONS = 3  # of an edge and a rim onto each other
_TILT = 1e-5  # of a cylinder that lies on a face: below it the contact moves to the middle
_TIE = 1e-5  # m, between depths that count as equal
_TURNS, _TURN = 4, 1e-3  # by which MuJoCo turns each of the two for more contacts
_LEAST = 0.02  # m, the least extent that counts for what is one point
_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)), np.float32)
_EVER = 1e3  # m, a depth that is never the least
_SAME = 1e-4  # m between points that count as one


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Within it MJX collides so: models are made and steps traced with these functions."""
    from mujoco.mjx._src import collision_convex, collision_driver
    from mujoco.mjx._src.types import GeomType

    table = collision_driver._COLLISION_FUNC
    before, box, mesh = dict(table), GeomType.BOX, GeomType.MESH
    capsule, cylinder = GeomType.CAPSULE, GeomType.CYLINDER
    table.update({
        (cylinder, box): collision_convex.collider(ncon=_TURNS + 1)(cylinder_box),
        (cylinder, mesh): collision_convex.collider(ncon=1)(cylinder_convex),
        (box, box): _finds(boxes.NUM_CONTACTS, _boxes), (box, mesh): once(before[box, mesh]),
        (capsule, box): from_margin(before[capsule, box])})
    try:
        yield
    finally:
        table.clear()
        table.update(before)


def _boxes(model: Any, data: Any, key: Any, geom: jax.Array
           ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`boxes.box_box` for pairs of geoms [P, 2], as MJX calls its collisions."""
    from mujoco.mjx._src.collision_types import GeomInfo

    del key
    one, two = (GeomInfo(data.geom_xpos[side], data.geom_xmat[side], model.geom_size[side])
                for side in geom.T)
    found = jax.vmap(boxes.box_box)(one, two, model.geom_margin[geom].sum(1))
    distance, position, frame = (jnp.concatenate(list(x)) for x in found)
    return distance, position, frame


def _finds(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the number of contacts that it finds of a pair, where MJX looks for it."""
    vars(function)["ncon"] = count
    return function


def from_margin(function: Any) -> Callable[..., Any]:
    """MJX's collision `function` of capsules, from a pair's margin on: radii grow by it."""

    def collide(model: Any, data: Any, key: Any, geom: jax.Array
                ) -> tuple[jax.Array, jax.Array, jax.Array]:
        count, sides = len(geom), geom.T.ravel()
        margin = model.geom_margin[geom].sum(1)
        early = jnp.repeat(margin, function.ncon)
        wider = model.replace(geom_size=model.geom_size[sides].at[:count, 0].add(margin))
        apart = jnp.arange(2 * count).reshape(2, count).T
        distance, position, frame = function(wider, data.replace(
            geom_xpos=data.geom_xpos[sides], geom_xmat=data.geom_xmat[sides]), key, apart)
        return distance + early, position - early[:, None] / 2 * frame[:, 0], frame

    return _finds(function.ncon, collide)


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
        return jnp.where(again.ravel(), APART, distance), position, frame

    return _finds(count, collide)


@jax.default_matmul_precision("highest")  # depths are millimetres of coordinates
def cylinder_box(cylinder: Any, box: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(distance [5], position [5, 3], frame [5, 3, 3]) of a cylinder and a box.

    MuJoCo turns the two against each other about both tangents where they touch, both ways, and
    keeps where they touch then, unless it has such a point. All are as deep as the first.
    """
    distance, position, frame = _lowest_on_box(cylinder, box)
    turns = _TURN * jnp.concatenate([frame[1:], -frame[1:]])
    turned = jax.vmap(lambda turn: _lowest_on_box(
        _turned(cylinder, position, -turn), _turned(box, position, turn))[1])(turns)
    points = jnp.concatenate([position[None], turned])
    bounds = jnp.linalg.norm(cylinder.size[:2]), jnp.linalg.norm(box.size)
    tolerance = _TURN * jnp.maximum(_LEAST, jnp.minimum(*bounds))
    far = jnp.linalg.norm(points[:, None] - points, axis=-1) > tolerance
    new = [jnp.array(True)]
    for n in range(1, _TURNS + 1):
        new.append((far[n, :n] | ~jnp.stack(new)).all())
    return (jnp.where(jnp.stack(new), distance, APART), points,
            jnp.tile(frame, (_TURNS + 1, 1, 1)))


def _turned(shape: Any, about: jax.Array, turn: jax.Array) -> Any:
    """`shape` after a small rotation, `turn` [3] in radians, about a point [3]."""
    return shape.replace(pos=shape.pos + jnp.cross(turn, shape.pos - about),
                         mat=shape.mat + jnp.cross(turn, shape.mat.T).T)


def _lowest_on_box(cylinder: Any, box: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`cylinder_convex` of a box, of whose edges at most six are candidates, not all twelve."""
    seen, others = _Seen.of(cylinder, box), 1 - jnp.eye(3)
    sides = jnp.where(seen.center < 0, -1.0, 1.0)
    across = _unit(jnp.cross(jnp.eye(3), seen.axis))
    across *= jnp.where(across @ seen.center < 0, -1.0, 1.0)[:, None]
    crossing = _along_axis(seen, others * jnp.where(across < 0, -1.0, 1.0) * box.size, box.size)
    outwards = others * sides
    on_rim = outwards * box.size + jnp.diag(jnp.clip(seen.center, -box.size, box.size))
    for _ in range(_PROJECTIONS):
        rims, tangents = _rim(on_rim, *seen)
        on_rim = outwards * box.size + jnp.diag(jnp.clip(jnp.diagonal(rims), -box.size, box.size))
    beside = _unit(jnp.cross(jnp.eye(3), tangents))
    beside *= jnp.where(jnp.sum(beside * outwards, 1, keepdims=True) < 0, -1.0, 1.0)
    corners = _CORNERS * box.size
    radials = _radial(seen, corners)
    nearest = jnp.argmin(jnp.sum(radials**2, 1))
    flat = seen.axis * jnp.where(seen.axis @ seen.center < 0, -1.0, 1.0)
    radial = _unit(radials[nearest][None])
    normals = jnp.concatenate([jnp.diag(sides), across, beside, radial, flat[None]])
    points = jnp.concatenate([crossing, on_rim, corners[nearest][None],
                              jnp.where(flat < 0, -box.size, box.size)[None]])
    return _lowest(seen, box, normals, points, jnp.abs(normals) @ box.size,
                   lambda tips: (jnp.abs(tips) - box.size).max(1))


def _along_axis(seen: "_Seen", middles: jax.Array, size: jax.Array) -> jax.Array:
    """Of edges along the coordinates with `middles` [3, 3] the points nearest to the axis."""
    away = middles - seen.center
    apart, slope = jnp.diagonal(away), jnp.maximum(1 - seen.axis**2, _SHORT)
    share = jnp.clip((seen.axis * (away @ seen.axis) - apart) / slope, -size, size)
    at = jnp.clip((away + jnp.diag(share)) @ seen.axis, -seen.half, seen.half)
    return middles + jnp.diag(jnp.clip(seen.center + at * seen.axis, -size, size))


@jax.default_matmul_precision("highest")
def cylinder_convex(cylinder: Any, convex: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(distance [], position [3], frame [3, 3]) of a cylinder and a convex polytope.

    `cylinder` and `convex` are MJX's `GeomInfo` and `ConvexInfo`. The distance is exact where they
    overlap, but for an edge across a cylinder's rim; where they do not it is a lower bound. The
    frame's first row points from the cylinder into the polytope.
    """
    seen, faces = _Seen.of(cylinder, convex), convex.face_normal
    normals, points = _candidates(seen, convex)
    offsets = jnp.sum(faces * convex.face[:, 0], 1)
    return _lowest(seen, convex, normals, points, (normals @ convex.vert.T).max(1),
                   lambda tips: (tips @ faces.T - offsets).max(1))


class _Seen(NamedTuple):
    """A cylinder in the other shape's frame."""

    center: jax.Array
    axis: jax.Array
    half: jax.Array
    radius: jax.Array

    @classmethod
    def of(cls, cylinder: Any, other: Any) -> "_Seen":
        turn = other.mat.T
        return cls(turn @ (cylinder.pos - other.pos), turn @ cylinder.mat[:, 2],
                   cylinder.size[1], cylinder.size[0])


def _lowest(seen: _Seen, other: Any, normals: jax.Array, points: jax.Array, highest: jax.Array,
            outside: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The contact along that of `normals` [K, 3] along which the two overlap least.

    The first normals are those of faces; the others touch the other shape at `points`. It reaches
    as far as `highest` [K] along them, and `outside` tells by how much points are outside of it.
    """
    from mujoco.mjx._src import math

    center, axis, half, radius = seen
    count = len(normals) - len(points)
    along = normals @ axis
    across = jnp.sqrt(jnp.maximum(1 - along**2, 0))
    depths = highest - (normals @ center - half * jnp.abs(along) - radius * across)
    depths = jnp.where(jnp.sum(normals**2, 1) > 0.5, depths, _EVER)
    least = jnp.argmin(depths)
    # Of directions that are as good, those count whose point touches the other one as well.
    tilts = along[:count, None]
    ends = jnp.clip(tilts / _TILT, -1, 1)
    tips = center - half * ends * axis - radius * _unit(normals[:count] - tilts * axis)
    below = highest[count:] - jnp.sum(normals[count:] * points, 1)
    beyond = jnp.maximum(jnp.abs((points - center) @ axis) - half, 0)
    missed = jnp.concatenate([jnp.maximum(outside(tips), 0), below + beyond])
    share = jax.nn.softmax(-(depths + missed) / _TIE)
    halfway = depths[:, None] / 2 * normals
    middle = jnp.concatenate([tips + halfway[:count], points - halfway[count:]])
    frame = math.make_frame(-(other.mat @ normals[least]))
    return -depths[least], other.pos + other.mat @ (share @ middle), frame


def _candidates(seen: _Seen, convex: Any) -> tuple[jax.Array, jax.Array]:
    """Directions [K, 3] along which the two may overlap least: out of the polytope's F faces, and
    others (zero where there is none) with the point of it that touches then [K - F, 3].
    """
    from mujoco.mjx._src import math

    center, axis, half, _ = seen
    starts, stops = jnp.moveaxis(convex.vert[convex.edge], 1, 0)  # [E, 3] each
    edges = stops - starts
    near_axis = center - half * axis, center + half * axis
    crossing = jax.vmap(lambda *edge: math.closest_segment_to_segment_points(
        *edge, *near_axis)[0])(starts, stops)
    on_rim = crossing
    for _ in range(_PROJECTIONS):
        rims, tangents = _rim(on_rim, *seen)
        share = jnp.sum((rims - starts) * edges, 1) / jnp.sum(edges**2, 1)
        on_rim = starts + jnp.clip(share, 0, 1)[:, None] * edges
    flat = jnp.stack([axis, -axis])
    lowest = convex.vert[jnp.argmax(flat @ convex.vert.T, 1)]
    beside = jnp.concatenate([jnp.cross(edges, axis), jnp.cross(edges, tangents)])
    outwards = jnp.tile(convex.edge_face_normal.sum(1), (2, 1))
    beside *= jnp.sign(jnp.sum(beside * outwards, 1, keepdims=True))
    normals = jnp.concatenate(
        [convex.face_normal, _unit(beside), _unit(_radial(seen, convex.vert)), flat])
    return normals, jnp.concatenate([crossing, on_rim, convex.vert, lowest])


def _radial(seen: _Seen, points: jax.Array) -> jax.Array:
    """From points [P, 3] straight to the cylinder's axis."""
    away = seen.center - points
    return away - (away @ seen.axis)[:, None] * seen.axis


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
