"""Convex shapes with few faces, for what MJX would collide slowly or not at all; metres."""

import numpy as np

_JOINED = np.cos(np.radians(6))  # of facets whose normals are nearer to each other


def polytope(points: np.ndarray, faces: int) -> np.ndarray:
    """Vertices [V, 3] of a polytope around points [P, 3] that touches their hull with every face.

    Its faces are the `faces` largest of the hull, where facets that look nearly the same way count
    as the largest of them, and six along the coordinates, which close it.
    """
    from scipy.spatial import ConvexHull, HalfspaceIntersection

    hull = ConvexHull(points)
    points, normals = points[hull.vertices], hull.equations[:, :3]
    a, b, c = np.moveaxis(hull.points[hull.simplices], 1, 0)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    found, left = [], areas.copy()
    while left.any():
        largest = normals[np.argmax(left)]
        same = (normals @ largest > _JOINED) & (left > 0)
        found.append((left[same].sum(), largest))
        left[same] = 0
    found.sort(key=lambda pair: -pair[0])
    chosen = np.concatenate([np.eye(3), -np.eye(3), [normal for _, normal in found[:faces]]])
    planes = np.c_[chosen, -(points @ chosen.T).max(0)]
    return HalfspaceIntersection(planes, points.mean(0)).intersections
