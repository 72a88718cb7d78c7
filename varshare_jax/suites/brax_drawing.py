"""A picture of a robot of brax, true to scale: its capsules and spheres seen from the side.

What moves in a horizontal plane is seen from above. The camera follows the first link along the
ground, which has a mark at every metre.
"""

import math
from typing import Any, NamedTuple

import numpy as np

SIZE = 600, 400  # pixels
_SMOOTHING = 3  # drawn so many times larger, then averaged
_ROOM = 1.6  # width of what is seen, in lengths of all parts of the robot together
_LEAST = 1.0  # m, the least width
_GROUND = 0.15  # of the height lies below the ground
_PLANE, _SPHERE, _CAPSULE = 0, 2, 3  # MuJoCo's numbers for kinds of bodies
_PAPER, _EARTH, _MARK, _EDGE = "#ffffff", "#e5e7eb", "#9aa2ae", "#ffffff"
_COLORS = ("#1f4e79", "#d55e00", "#e69f00", "#f0c75e", "#009e73", "#56b4a0", "#9ad4c5")


class Part(NamedTuple):
    """A capsule's two ends [3] in m, equal for a sphere; its radius in m; its link's index, -1
    for what stands still."""

    ends: np.ndarray
    radius: float
    link: int


def draw(sys: Any, pos: np.ndarray, rot: np.ndarray) -> np.ndarray:
    """RGB picture [400, 600, 3], uint8; positions [L, 3] in m and quaternions [L, 4] of links."""
    from PIL import Image, ImageDraw

    robot = parts(sys, pos, rot)
    span = sum(math.dist(*part.ends) + 2 * part.radius for part in robot if part.link >= 0)
    width, height = (_SMOOTHING * n for n in SIZE)
    scale = width / max(_LEAST, _ROOM * span)
    above = _moves_flat(sys)
    grounded = not above and (np.asarray(sys.geom_type) == _PLANE).any()
    level = height * (1 - _GROUND if grounded else 0.5)
    center = pos[0, [0, 1]] if above else np.array([pos[0, 0], 0.0])

    def at(point: np.ndarray) -> tuple[float, float]:
        """Pixels of a point in metres."""
        x, y = point[[0, 1] if above else [0, 2]] - center
        return width / 2 + scale * x, level - scale * y

    image = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(image)
    _draw_ground(pen, center, scale, level, (width, height), grounded)
    for part in sorted(robot, key=lambda part: part.ends[:, 2 if above else 1].mean()):
        color = _COLORS[part.link % len(_COLORS)] if part.link >= 0 else _MARK
        _draw_part(pen, [at(end) for end in part.ends], scale * part.radius, color)
    return np.asarray(image.resize(SIZE, Image.Resampling.LANCZOS))


def parts(sys: Any, pos: np.ndarray, rot: np.ndarray) -> list[Part]:
    """What of a robot is drawn, in the world: its capsules and spheres."""
    found = []
    for kind, body, size, place, turn in zip(sys.geom_type, sys.geom_bodyid, *(
            np.asarray(x) for x in (sys.geom_size, sys.geom_pos, sys.geom_quat)), strict=True):
        if kind not in (_SPHERE, _CAPSULE):
            continue
        half = size[1] if kind == _CAPSULE else 0.0
        ends = place + _rotate(np.array([[0.0, 0.0, -half], [0.0, 0.0, half]]), turn)
        if link := int(body):  # MuJoCo counts the world as the first body
            ends = pos[link - 1] + _rotate(ends, rot[link - 1])
        found.append(Part(ends, float(size[0]), link - 1))
    return found


def _moves_flat(sys: Any) -> bool:
    """Whether every joint of the robot turns about the vertical or slides horizontally."""
    motion = sys.dof.motion
    turns, slides = np.abs(np.asarray(motion.ang)), np.abs(np.asarray(motion.vel))
    return bool(turns[:, :2].max() < 0.5 and slides[:, 2].max() < 0.5)


def _rotate(points: np.ndarray, quat: np.ndarray) -> np.ndarray:
    """Points [..., 3] turned by a unit quaternion (w, x, y, z)."""
    w, axis = quat[0], quat[1:]
    return points + 2 * np.cross(axis, np.cross(axis, points) + w * points)


def _draw_part(pen: Any, ends: list[tuple[float, float]], radius: float, color: str) -> None:
    """A capsule with a thin edge, which tells it from those behind it."""
    for paint, reach in ((_EDGE, radius + _SMOOTHING), (color, radius)):
        pen.line(ends, paint, round(2 * reach))
        for end in ends:
            pen.circle(end, reach, paint)


def _draw_ground(pen: Any, center: np.ndarray, scale: float, level: float,
                 size: tuple[int, int], grounded: bool) -> None:
    """The ground from the side, or what lies behind as a grid, with marks a metre apart."""
    width, height = size
    if grounded:
        pen.rectangle([0, level, width, height], _EARTH)
    reach = int(width / scale) + 1
    for n in range(-reach, reach + 1):
        x = width / 2 + scale * (np.floor(center[0]) + n - center[0])
        y = level - scale * (np.floor(center[1]) + n - center[1])
        if grounded:
            pen.line([(x, level), (x, level + height / 40)], _MARK, _SMOOTHING)
        else:
            pen.line([(x, 0), (x, height)], _EARTH, _SMOOTHING)
            pen.line([(0, y), (width, y)], _EARTH, _SMOOTHING)
