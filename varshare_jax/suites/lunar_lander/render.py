"""A picture of a lander: terrain, pad, flames and wind, drawn with Pillow."""

import jax
import numpy as np

from varshare_jax.suites.lunar_lander.bodies import (
    BODIES,
    CHUNKS,
    HULL,
    SCALE,
    SPACING,
    WORLD,
)
from varshare_jax.suites.lunar_lander.env import Params, State

_SKY, _GROUND, _HULL, _LEG = (16, 18, 34), (206, 203, 196), (122, 108, 220), (176, 168, 235)
_FLAG, _POLE, _WIND = (240, 196, 25), (235, 235, 235), (120, 190, 255)
_FLAME, _CORE = (255, 122, 24), (255, 232, 150)
_SMOOTHING = 3  # drawn so many times larger, then averaged


def draw(state: State, params: Params) -> np.ndarray:
    """One lander (no batch axes) as an RGB picture [400, 600, 3], uint8."""
    from PIL import Image, ImageDraw

    state = jax.tree.map(np.asarray, state)
    size = round(WORLD.x * SCALE), round(WORLD.y * SCALE)
    image = Image.new("RGB", tuple(_SMOOTHING * n for n in size), _SKY)
    pen = ImageDraw.Draw(image)
    surface = [(SPACING * i, float(state.terrain[i])) for i in range(CHUNKS)]
    pen.polygon(_pixels([(0, 0), *surface, (WORLD.x, 0)]), _GROUND)
    _draw_pad(pen, surface)
    _draw_flames(pen, state)
    for body, parts in ((2, BODIES[2]), (1, BODIES[1]), (0, HULL)):
        corners = np.stack([parts.vertices.x, parts.vertices.y], -1)
        pen.polygon(_pixels(_placed(state, body, corners)), _HULL if body == 0 else _LEG)
    if abs(float(state.wind)) > 0:
        _draw_wind(pen, float(state.wind))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _pixels(points) -> list[tuple[float, float]]:
    """World coordinates as pixels of the enlarged picture."""
    factor = SCALE * _SMOOTHING
    return [(factor * float(x), factor * (WORLD.y - float(y))) for x, y in points]


def _placed(state: State, body: int, points: np.ndarray) -> np.ndarray:
    """Points [V, 2] from a body's centre of mass in world coordinates."""
    angle = float(state.pose.angle[body])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ turn + [float(state.pose.at.x[body]), float(state.pose.at.y[body])]


def _draw_pad(pen, surface: list[tuple[float, float]]) -> None:
    """Two flags, as in the original."""
    for x, y in (surface[CHUNKS // 2 - 1], surface[CHUNKS // 2 + 1]):
        pen.line(_pixels([(x, y), (x, y + 1.7)]), _POLE, _SMOOTHING)
        pen.polygon(_pixels([(x, y + 1.7), (x, y + 1.35), (x + 0.8, y + 1.52)]), _FLAG)


def _draw_flames(pen, state: State) -> None:
    """Flames as long as the engines' power, opposite to their thrust."""
    main, side = float(state.main), -float(state.side)
    flames = []
    if main > 0:
        flames.append((np.array([0.0, -10 / SCALE]), np.array([0, -1.3 * main]), 0.22))
    if side:
        nozzle = np.array([np.sign(side) * 17 / SCALE, 12 / SCALE])
        flames.append((nozzle, np.array([0.7 * side, 0.0]), 0.09))
    for base, along, width in flames:
        across = width * np.array([-along[1], along[0]]) / np.linalg.norm(along)
        for share, colour in ((1.0, _FLAME), (0.55, _CORE)):
            tongue = np.array([share * across, share * along, -share * across]) + base
            tongue = tongue - [HULL.centre.x, HULL.centre.y]
            pen.polygon(_pixels(_placed(state, 0, tongue)), colour)


def _draw_wind(pen, wind: float) -> None:
    """Arrows at the top, as long as the wind is strong."""
    length = wind / 20 * 2.5
    for x, y in ((4.0, 12.6), (10.0, 12.2), (16.0, 12.6)):
        head = np.sign(wind) * 0.25
        tip = x + length / 2
        pen.line(_pixels([(x - length / 2, y), (tip, y)]), _WIND, _SMOOTHING)
        pen.polygon(_pixels([(tip + head, y), (tip, y + 0.13), (tip, y - 0.13)]), _WIND)
