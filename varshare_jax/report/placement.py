"""Where labels go: beside their points, over no other label, point or leader."""

from collections.abc import Iterator

import numpy as np

_GAPS = (3.0, 8.0, 15.0, 24.0, 36.0, 50.0, 70.0, 95.0, 125.0, 160.0)  # pixels
_ANGLES = 24
_LEADER_DOTS = 24
_CROSSING = 40.0  # pixels
_NEIGHBOURS = 4


class _Taken:
    """What labels must not cover: each other, `obstacles` [K, 2] within `radius`, leaders."""

    def __init__(self, obstacles: np.ndarray, radius: float):
        self.obstacles, self.radius = obstacles, radius
        self.low, self.high = np.empty((2, 0, 2))
        self.dots = np.empty((0, 2))

    def add(self, centre: np.ndarray, half: np.ndarray, point: np.ndarray) -> None:
        """A label, and the line from it to its point."""
        self.low = np.concatenate([self.low, [centre - half]])
        self.high = np.concatenate([self.high, [centre + half]])
        self.dots = np.concatenate([self.dots, _line(point, centre)])

    def covers(self, centre: np.ndarray, half: np.ndarray) -> bool:
        """Whether a label there would lie on another or on an obstacle."""
        labels = ((centre + half > self.low) & (centre - half < self.high)).all(axis=1)
        return bool(labels.any()) or _within(self.obstacles, centre, half + self.radius)

    def crosses(self, centre: np.ndarray, half: np.ndarray, point: np.ndarray) -> bool:
        """Whether it would lie on a line, or its own line on a label."""
        line = _line(point, centre)[:, None]
        return (_within(self.dots, centre, half)
                or bool(((line > self.low) & (line < self.high)).all(axis=2).any()))


def place(points: np.ndarray, sizes: np.ndarray, obstacles: np.ndarray, frame: np.ndarray,
          radius: float) -> np.ndarray:
    """Centres [M, 2] of labels of `sizes` [M, 2] for `points` [M, 2]; NaN where none is free.

    One after the other, the most crowded first, each goes to the nearest place within `frame`
    ((left, bottom), (right, top)) that covers no label before it and no obstacle [K, 2] within
    `radius`; one that a line from a label to its point crosses counts as further off. All
    lengths are pixels.
    """
    taken = _Taken(obstacles, radius)
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    crowded = np.sort(apart, axis=1)[:, :_NEIGHBOURS].sum(axis=1).argsort(kind="stable")
    centres = np.full(points.shape, np.nan)
    for index in crowded:
        point, half = points[index], sizes[index] / 2 + 1
        near = points[np.argsort(apart[index], kind="stable")[:_NEIGHBOURS]]
        free = [centre for centre in _candidates(point, half, point - near.mean(axis=0), radius)
                if (centre - half >= frame[0]).all() and (centre + half <= frame[1]).all()
                and not taken.covers(centre, half)]
        if free:
            costs = [_gap(centre, half, point) + _CROSSING * taken.crosses(centre, half, point)
                     for centre in free]
            centres[index] = free[int(np.argmin(costs))]
            taken.add(centres[index], half, point)
    return centres


def _candidates(point: np.ndarray, half: np.ndarray, away: np.ndarray,
                radius: float) -> Iterator[np.ndarray]:
    """Centres by their distance, first those on the side that faces away from the neighbours."""
    first = np.arctan2(away[1], away[0]) if away.any() else 0.0
    turns = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    angles = first + turns[np.argsort(1 - np.cos(turns), kind="stable")]
    for gap in _GAPS:
        for angle in angles:
            direction = np.array([np.cos(angle), np.sin(angle)])
            yield point + (radius + gap) * direction + half * np.clip(1.6 * direction, -1, 1)


def _gap(centre: np.ndarray, half: np.ndarray, point: np.ndarray) -> float:
    return float(np.linalg.norm(np.maximum(np.abs(centre - point) - half, 0)))


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return np.linspace(start, end, _LEADER_DOTS)


def _within(dots: np.ndarray, centre: np.ndarray, half: np.ndarray) -> bool:
    return bool((np.abs(dots - centre) < half).all(axis=1).any())
