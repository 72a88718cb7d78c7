"""Boxes against boxes as MuJoCo collides them: its contacts, found by comparing random pairs.

MJX's own differ where it matters to a grasp. It finds nothing before two boxes touch, though MuJoCo
lets fingers touch a margin early; takes for an edge across an edge some point of the nearest faces;
keeps four of a face's contacts, copies of one among them, and puts them on a face instead of half
way between the two.
"""

from typing import Any

import jax
import jax.numpy as jnp

NUM_CONTACTS = 8  # of a rectangle clipped by a rectangle
APART = 1.0  # m, the distance of what does not touch
_PARALLEL = 1e-6  # squared sine of two edges below which they have no common normal
_ALIKE = 0.995  # cosine between an edge's normal and a face's from which the face is preferred,
_BETTER = 0.05  # unless the edge's gap exceeds the face's by this share of it


@jax.default_matmul_precision("highest")  # gaps are millimetres of coordinates
def box_box(one: Any, two: Any, margin: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(distance [8], position [8, 3], frame [8, 3, 3]) of two boxes up to `margin` metres apart.

    `one` and `two` have MJX's `pos` [3], `mat` [3, 3] and `size` [3]. Positions lie half way
    between the two; the frames' first row points from `one` to `two`.
    """
    from mujoco.mjx._src import math

    turn = one.mat.T @ two.mat  # axes of `two` as columns, seen from `one`
    center = one.mat.T @ (two.pos - one.pos)
    faces, edges, normals = _gaps(turn, center, one.size, two.size)
    face, edge = jnp.argmax(faces), jnp.argmax(edges)
    on_faces = _faces_touch(face, turn, center, one.size, two.size, margin)
    on_edges = _edges_touch(edge, normals[edge], turn, center, one.size, two.size)
    facing = jnp.where(face < 3, normals[edge][face % 3], normals[edge] @ turn[:, face % 3])
    owed = jnp.where(jnp.abs(facing) > _ALIKE, _BETTER * jnp.abs(faces[face]), 0)
    crossed = edges[edge] > faces[face] + owed
    alone = jnp.arange(NUM_CONTACTS) == 0
    distance = jnp.where(crossed, jnp.where(alone, edges[edge], APART), on_faces[0])
    position = jnp.where(crossed, on_edges, on_faces[1])
    frame = math.make_frame(one.mat @ jnp.where(crossed, normals[edge], on_faces[2]))
    return distance, one.pos + position @ one.mat.T, jnp.tile(frame, (NUM_CONTACTS, 1, 1))


def _gaps(turn: jax.Array, center: jax.Array, a: jax.Array, b: jax.Array
          ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distances along the normals of faces [6] and of pairs of edges [9], and the latter's normals
    [9, 3], from the first box to the second; a pair of parallel edges is at minus infinity.
    """
    seen = center @ turn
    faces = jnp.concatenate([jnp.abs(center) - a - jnp.abs(turn) @ b,
                             jnp.abs(seen) - b - a @ jnp.abs(turn)])
    across = jnp.cross(jnp.eye(3)[:, None], turn.T[None]).reshape(9, 3)
    squares = jnp.sum(across**2, 1)
    crossing = squares > _PARALLEL
    across /= jnp.sqrt(jnp.where(crossing, squares, 1))[:, None]
    across *= jnp.where(across @ center < 0, -1.0, 1.0)[:, None]
    gaps = across @ center - jnp.abs(across) @ a - jnp.abs(across @ turn) @ b
    return faces, jnp.where(crossing, gaps, -jnp.inf), across


def _edges_touch(edge: jax.Array, normal: jax.Array, turn: jax.Array, center: jax.Array,
                 a: jax.Array, b: jax.Array) -> jax.Array:
    """The middle [3] between the two edges of pair `edge` that are nearest along `normal`."""
    i, j = edge // 3, edge % 3
    along, other = jnp.eye(3)[i], turn[:, j]
    start = jnp.where(jnp.arange(3) == i, 0, jnp.sign(normal) * a)
    towards = normal @ turn
    stop = center - turn @ jnp.where(jnp.arange(3) == j, 0, jnp.sign(towards) * b)
    cosine, apart = along @ other, stop - start
    sine = jnp.maximum(1 - cosine**2, _PARALLEL)
    first = (apart @ along - cosine * (apart @ other)) / sine
    second = (cosine * (apart @ along) - apart @ other) / sine
    return (start + first * along + stop + second * other) / 2


def _faces_touch(face: jax.Array, turn: jax.Array, center: jax.Array, a: jax.Array, b: jax.Array,
                 margin: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Contacts of a reference face (0 to 2 of the first box, 3 to 5 of the second) with the face
    of the other box that looks at it most: distance [8], position [8, 3], normal [3].
    """
    swap, k = face >= 3, face % 3
    to_own = jnp.where(swap, turn, jnp.eye(3))  # from the reference box's frame to the first's
    turned = jnp.where(swap, turn.T, turn)
    there = jnp.where(swap, -center @ turn, center)
    a, b = jnp.where(swap, b, a), jnp.where(swap, a, b)
    side = jnp.where(there[k] < 0, -1.0, 1.0)
    facing = side * turned[k]
    j = jnp.argmax(jnp.abs(facing))
    middle = there - jnp.sign(facing[j]) * b[j] * turned[:, j]
    spans = jnp.stack([b[(j + n) % 3] * turned[:, (j + n) % 3] for n in (1, 2)])
    order = jnp.stack([(k + 1) % 3, (k + 2) % 3, k])  # in the plane, in the plane, out of it
    middle, spans, limits = middle[order], spans[:, order], a[order]
    points, valid = _clipped(middle, spans, limits[:2])
    height = side * points[:, 2] - limits[2]
    valid &= height < margin
    places = jnp.argsort(~valid, stable=True)[:NUM_CONTACTS]
    distance = jnp.where(valid, height, APART)[places]
    halfway = points.at[:, 2].add(-side * height / 2)[places]
    position = jnp.zeros_like(halfway).at[:, order].set(halfway)
    normal = jnp.where(swap, -side, side) * to_own[:, k]
    return distance, position @ to_own.T + jnp.where(swap, center, 0), normal


def _clipped(middle: jax.Array, spans: jax.Array, limits: jax.Array
             ) -> tuple[jax.Array, jax.Array]:
    """Corners of a parallelogram `middle` [3] ± `spans` [2, 3] clipped by |x|, |y| ≤ `limits` [2]:
    points [12, 3], of which at most eight are valid [12].
    """
    signs = jnp.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], spans.dtype)
    corners = middle + signs @ spans
    steps = jnp.roll(corners, -1, axis=0) - corners
    flat, moves = corners[:, :2], steps[:, :2]
    still = jnp.abs(moves) < 1e-9
    ends = jnp.stack([-limits - flat, limits - flat]) / jnp.where(still, 1, moves)
    enter = jnp.where(still, -jnp.inf, ends.min(0)).max(1)
    leave = jnp.where(still, jnp.inf, ends.max(0)).min(1)
    outside = (still & (jnp.abs(flat) > limits)).any(1)
    enter, leave = jnp.maximum(enter, 0), jnp.minimum(leave, 1)
    cut = (enter <= leave) & ~outside
    on_edges = [corners + at[:, None] * steps for at in (enter, leave)]
    inside, within = _inside(middle, spans, signs * limits)
    return jnp.concatenate([*on_edges, inside]), jnp.concatenate([cut, cut & (leave < 1), within])


def _inside(middle: jax.Array, spans: jax.Array, corners: jax.Array
            ) -> tuple[jax.Array, jax.Array]:
    """Corners [4, 2] of the clipping rectangle on the parallelogram's plane [4, 3], and which of
    them lie strictly within it [4].
    """
    (ux, uy), (vx, vy) = spans[:, :2]
    area = ux * vy - uy * vx
    x, y = (corners - middle[:2]).T
    safe = jnp.where(jnp.abs(area) > 1e-12, area, 1)
    u, v = (x * vy - y * vx) / safe, (y * ux - x * uy) / safe
    points = middle + u[:, None] * spans[0] + v[:, None] * spans[1]
    within = (jnp.abs(u) < 1) & (jnp.abs(v) < 1) & (jnp.abs(area) > 1e-12)
    return points, within
