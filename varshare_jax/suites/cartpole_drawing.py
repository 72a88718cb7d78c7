"""A picture of a cart-pole on which its pole's length and its masses can be seen.

Positions are true to scale. Poles differ forty-fold in length, so they are drawn by its square
root; areas of carts and thickness of poles grow with their masses.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

SIZE = 600, 400  # pixels
_TRACK = 2.4  # m to either side, where episodes end
_HEIGHT = 3.3  # m above the track that fit
_SMOOTHING = 3  # drawn so many times larger, then averaged
_PAPER, _LINE, _CART, _POLE, _AXLE = "#ffffff", "#9aa2ae", "#1f4e79", "#d55e00", "#f3f4f6"


def draw(position: float, angle: float, pole_length: float, cart_mass: float,
         pole_mass: float) -> np.ndarray:
    """RGB picture [400, 600, 3], uint8; m, rad from upright (clockwise), m, kg, kg."""
    width, height = (_SMOOTHING * n for n in SIZE)
    image = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(image)
    scale = min(width / (2 * _TRACK + 0.9), height / (_HEIGHT + 0.5))
    ground = height - 0.5 * scale

    def at(x: float, y: float) -> tuple[float, float]:
        """Pixels of a point in metres from the middle of the track."""
        return width / 2 + scale * x, ground - scale * y

    _draw_track(pen, at, scale)
    half, tall = 0.26 * math.sqrt(cart_mass), 0.2 * math.sqrt(cart_mass)
    corners = at(position - half, tall), at(position + half, 0.0)
    pen.rounded_rectangle([*corners[0], *corners[1]], 0.25 * (corners[1][1] - corners[0][1]),
                          _CART)
    axle = at(position, tall)
    drawn = 1.2 * math.sqrt(pole_length)
    tip = at(position + drawn * math.sin(angle), tall + drawn * math.cos(angle))
    thickness = scale * 0.14 * math.sqrt(0.1 + pole_mass)
    pen.line([axle, tip], _POLE, round(thickness))
    for center, radius, color in ((axle, thickness / 2, _POLE), (tip, thickness / 2, _POLE),
                                  (axle, thickness / 4, _AXLE)):
        pen.circle(center, radius, color)
    return np.asarray(image.resize(SIZE, Image.Resampling.LANCZOS))


def _draw_track(pen: ImageDraw.ImageDraw, at, scale: float) -> None:
    """The track with a mark at every metre and a stop at either end."""
    thick = round(0.025 * scale)
    pen.line([at(-_TRACK - 0.4, 0), at(_TRACK + 0.4, 0)], _LINE, thick)
    for x in (-2, -1, 0, 1, 2):
        pen.line([at(x, 0), at(x, -0.09)], _LINE, thick)
    for stop in (-_TRACK, _TRACK):
        pen.line([at(stop, -0.16), at(stop, 0.16)], _POLE, thick)
