"""Convex shapes with few faces, for what MJX would collide slowly or not at all; metres."""

import numpy as np


def prism(radius: float, half: float, sides: int) -> np.ndarray:
    """Vertices [2 sides, 3] of an upright prism with a cylinder's height and volume."""
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    radius = radius * np.sqrt(2 * np.pi / (sides * np.sin(2 * np.pi / sides)))
    ring = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.concatenate([np.insert(ring, 2, end, 1) for end in (-half, half)])


def polytope(points: np.ndarray, axes: np.ndarray, sides: int) -> np.ndarray:
    """Vertices [V, 3] of a polytope around points [P, 3] that touches their hull with every face.

    Its faces look along the third of the `axes` (rows, [3, 3]), against it, and in `sides`
    directions around it, level and at 45° upwards and downwards.
    """
    from scipy.spatial import ConvexHull, HalfspaceIntersection

    angles, upwards = 2 * np.pi * np.arange(sides) / sides, np.array([0, 0, 1.0])
    around = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides)], 1)
    tilted = [around + lift * upwards for lift in (-1, 0, 1)]
    normals = np.concatenate([[upwards, -upwards], *tilted]) @ axes
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = points[ConvexHull(points).vertices]
    planes = np.c_[normals, -(points @ normals.T).max(0)]
    return HalfspaceIntersection(planes, points.mean(0)).intersections
