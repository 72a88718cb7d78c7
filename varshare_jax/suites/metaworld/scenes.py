"""Meta-World's scenes, from the installed package's XML and meshes, in forms made for stepping.

`plain` is for MuJoCo itself: what only serves to be seen goes. All that collides stays as it is,
and so do cones and solver. The body that a task moves becomes one whose position is part of the
state; sensors tell where things are. It moves as the original does to the last bits, which is why
bodies without joints are not fused: what that rounds differently is millimetres in a grasp.

`reduced` is for MJX. What changes against the original, and why:
- visual geoms, unused meshes and materials go; inertias are frozen first, so no mass changes;
- bodies without joints are fused with their parents: 13 bodies remain of 34, the motion is the
  same to rounding;
- MJX has no collision of cylinders with boxes and meshes, and others than MuJoCo of boxes: those
  of `collisions` and `boxes` are used;
- the one colliding mesh, the gripper's base, becomes its bounding box, and beside it a polytope of
  its largest faces for what hooks into it: handles and the door;
- the base keeps its contacts' softness: that of its own body, not of the one it is fused with;
- the table is a plane (nothing leaves it: the original has walls around it) and the floor goes;
- pairs that never touch are not tested: finger against finger, a scene's fixed part against its
  moving one unless `_TOUCHING` lists it (they were counted in random and scripted episodes);
- the solver runs a fixed number of iterations.
"""

import dataclasses
import functools
import itertools
from collections.abc import Collection, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from varshare_jax.suites.metaworld import requirements, shapes

_GRIPPER = ("right_hand", "rightclaw", "rightpad", "leftclaw", "leftpad")
MOCAP_QUAT = np.array([1.0, 0.0, 1.0, 0.0]) / np.sqrt(2)
_WELD = np.array([0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5.0])  # mocap to hand, as Meta-World sets it
FRAME_SKIP = 5
_SETTLING_STEPS = 50


class Touching(NamedTuple):
    """Geoms of a scene's fixed and moving parts that do touch, as (body, index within it)."""

    fixed: tuple[tuple[str, int], ...]
    moving: tuple[tuple[str, int], ...]


_TOUCHING = {
    "sawyer_door_pull": Touching((("doorlockB", 0),), (("door_link", 4),)),
    "sawyer_drawer": Touching((("RetainingWall", 1),), (("drawer_link", 1), ("drawer_link", 4))),
    "sawyer_button_press_topdown": Touching(tuple(("buttonbox", i) for i in range(4)),
                                            (("button", 1), ("button", 2))),
    "sawyer_peg_insertion_side": Touching(tuple(("", i) for i in range(7)), (("peg", 0),)),
    "sawyer_window_horizontal": Touching((("", 0), ("", 2)),
                                         (("windowb_a", 5), ("windowb_a", 6))),
}
_PRESSED = ("sawyer_button_press_topdown",)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How faithfully MJX steps; docs/metaworld.md has what each costs and buys."""

    iterations: int = 4  # of Newton's method
    ls_iterations: int = 8  # of its line search
    max_geom_pairs: int = 16  # per kind of pair, the nearest
    max_contact_points: int = 16
    pressed_contact_points: int = 32  # where fingers press something against a stop
    base_faces: int = 30  # of the polytope around the gripper's base, beside six; 0: its box alone
    table: str = "plane"  # or box
    cone: str = "elliptic"  # or pyramidal


class Settled(NamedTuple):
    """A scene after Meta-World's 50 steps of bringing the hand to its place."""

    qpos: np.ndarray
    qvel: np.ndarray
    warmstart: np.ndarray
    positions: np.ndarray  # [B, 3], of bodies, as of the last substep
    quats: np.ndarray  # [B, 4]


def path(scene: str) -> str:
    """The scene's XML in the installed package."""
    requirements.check()
    return str(files("metaworld") / "assets" / "sawyer_xyz" / f"{scene}.xml")


@functools.cache
def original(scene: str) -> Any:
    """MuJoCo's model of the original scene; not to be changed."""
    where = path(scene)
    import mujoco

    model = mujoco.MjModel.from_xml_path(where)
    model.eq_data[0] = _WELD
    return model


@functools.cache
def settled(scene: str, hand: tuple[float, float, float]) -> Settled:
    """The original scene, stepped on the CPU until the hand is at `hand`."""
    model = original(scene)
    import mujoco

    data = mujoco.MjData(model)
    data.ctrl[:] = -1, 1
    for _ in range(_SETTLING_STEPS):
        data.mocap_pos[0], data.mocap_quat[0] = hand, MOCAP_QUAT
        mujoco.mj_step(model, data, nstep=FRAME_SKIP)
    return Settled(*(np.array(x) for x in (data.qpos, data.qvel, data.qacc_warmstart,
                                           data.xpos, data.xquat)))


def plain(scene: str, body: str, seen: Sequence[tuple[str, str, str]]) -> Any:
    """MuJoCo's model of the scene as MuJoCo steps it; `body` ('' for none) can be placed.

    `seen` are its sensors: what (pos or quat) they tell of which kind (body, geom or site) and
    name. Numbers that are not finite stay so; MuJoCo's default is to start over without a word.
    """
    model = original(scene)
    import mujoco

    spec = mujoco.MjSpec.from_file(path(scene))
    _freeze_inertias(spec, model)
    shown = {name for _, kind, name in seen if kind == "geom"}
    for index, geom in enumerate(list(spec.geoms)):
        geom.material = ""
        touches = model.geom_contype[index] or model.geom_conaffinity[index]
        if not touches and geom.name not in shown:
            spec.delete(geom)
    _drop_decoration(spec, keep={geom.meshname for geom in spec.geoms})
    spec.body("mocap").quat = MOCAP_QUAT
    if body:
        spec.body(body).mocap = True
        _keep_collisions(spec, model)
    kinds = {"body": mujoco.mjtObj.mjOBJ_XBODY, "geom": mujoco.mjtObj.mjOBJ_GEOM,
             "site": mujoco.mjtObj.mjOBJ_SITE}
    for index, (what, kind, name) in enumerate(seen):
        spec.add_sensor(name=f"seen_{index}", objtype=kinds[kind], objname=name,
                        type=getattr(mujoco.mjtSensor, f"mjSENS_FRAME{what.upper()}"))
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    compiled = spec.compile()
    compiled.eq_data[0] = _WELD
    return compiled


def _keep_collisions(spec: Any, model: Any) -> None:
    """Lets a body collide with what it moves in, as it may where that is fixed to the world.

    MuJoCo leaves out pairs of parent and child, but not where the parent is fixed; to it, what can
    be placed is not. So the rule is switched off and written out for all other pairs.
    """
    import mujoco

    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_FILTERPARENT
    welded, bodies = model.body_weldid, _touching_bodies(model)
    for child, parent in itertools.product(bodies, bodies):
        if welded[parent] == welded[model.body_parentid[welded[child]]]:
            spec.add_exclude(name=f"apart_{child}_{parent}", bodyname1=model.body(child).name,
                             bodyname2=model.body(parent).name)


def _touching_bodies(model: Any) -> list[int]:
    """Bodies that can move and have geoms that collide."""
    touches = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    return [int(body) for body in np.unique(model.geom_bodyid[touches]) if model.body_weldid[body]]


def reduced(scene: str, body: str, settings: Settings) -> Any:
    """MuJoCo's model of the scene as MJX steps it; `body` ('' for none) is kept to be moved."""
    model = original(scene)
    import mujoco

    spec = mujoco.MjSpec.from_file(path(scene))
    _freeze_inertias(spec, model)
    for index, geom in enumerate(list(spec.geoms)):
        _convert(spec, geom, index, scene, settings)
    _drop_decoration(spec, keep=_meshes(spec))
    spec.compiler.fusestatic = True
    if body:  # what something refers to is not fused
        spec.add_exclude(name="kept", bodyname1=body, bodyname2="mocap")
    option = spec.option
    option.iterations, option.ls_iterations = settings.iterations, settings.ls_iterations
    option.cone = getattr(mujoco.mjtCone, f"mjCONE_{settings.cone.upper()}")
    contacts = settings.pressed_contact_points if scene in _PRESSED else settings.max_contact_points
    for name, limit in (("max_geom_pairs", settings.max_geom_pairs),
                        ("max_contact_points", contacts)):
        spec.add_numeric(name=name, data=[float(limit)], size=1)
    compiled = spec.compile()
    compiled.eq_data[0] = _WELD
    compiled.body("right_l6").invweight0[:] = model.body("right_hand").invweight0
    return compiled


def _meshes(spec: Any) -> set[str]:
    """Names of the meshes that collide. The base's hull goes where there is no rod to meet."""
    if not any(geom.conaffinity & _HULL_BIT for geom in spec.geoms):
        for geom in (geom for geom in list(spec.geoms) if geom.name == _HULL):
            spec.delete(geom)
    return {geom.meshname for geom in spec.geoms}


def _freeze_inertias(spec: Any, model: Any) -> None:
    import mujoco

    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE
    spec.compiler.balanceinertia = False
    for index, body in enumerate(spec.bodies[1:], 1):  # in the order of the compiled model
        body.explicitinertial = True
        body.mass = model.body_mass[index]
        body.ipos, body.iquat = model.body_ipos[index], model.body_iquat[index]
        body.inertia, body.fullinertia = model.body_inertia[index], [np.nan] * 6


def _convert(spec: Any, geom: Any, index: int, scene: str, settings: Settings) -> None:
    """Keeps a geom that may touch something, in a shape that MJX collides; deletes others."""
    import mujoco

    model, bits = original(scene), _collision_bits(original(scene), index, scene)
    if bits is None:
        spec.delete(geom)
        return
    shape = _stand_in(model, index, settings)
    kept = {key: getattr(model, f"geom_{key}")[index]
            for key in ("friction", "solref", "solimp", "margin", "solmix")}
    body, name = geom.parent, geom.name or f"geom_{index}"
    add = functools.partial(body.add_geom, condim=_CONDIM, **kept)
    spec.delete(geom)
    touches, touched = bits
    if settings.base_faces:
        if shape["type"] == mujoco.mjtGeom.mjGEOM_CAPSULE or body.name in _MEETS_HULL:
            touched = touched & ~_BASE_BIT | _HULL_BIT
        if touches == _BASE_BIT:
            vertices = shapes.polytope(_mesh_vertices(model, index), settings.base_faces)
            mesh = spec.add_mesh(name=_HULL, uservert=vertices.flatten())
            add(name=_HULL, contype=_HULL_BIT, conaffinity=0, **shape | {
                "type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": mesh.name})
    add(name=name, contype=touches, conaffinity=touched, **shape)


def _stand_in(model: Any, index: int, settings: Settings) -> dict[str, Any]:
    """The shape of a geom of the original as MJX can collide it: attributes of a geom."""
    import mujoco

    kinds, kind, size = mujoco.mjtGeom, model.geom_type[index], model.geom_size[index].copy()
    shape = {"type": kind, "size": size, "pos": model.geom_pos[index],
             "quat": model.geom_quat[index]}
    if model.body(model.geom_bodyid[index]).name == "tablelink" and settings.table == "plane":
        return shape | {"type": kinds.mjGEOM_PLANE, "pos": shape["pos"] + [0, 0, size[2]],
                        "quat": [1, 0, 0, 0]}
    if kind == kinds.mjGEOM_MESH:
        return shape | {"type": kinds.mjGEOM_BOX}
    return shape


def _mesh_vertices(model: Any, index: int) -> np.ndarray:
    """Vertices [P, 3] of a geom's mesh, in the geom's frame."""
    mesh = model.geom_dataid[index]
    start = model.mesh_vertadr[mesh]
    return model.mesh_vert[start:start + model.mesh_vertnum[mesh]].astype(float)


_FINGER_BIT, _MOVING_BIT, _BASE_BIT, _HULL_BIT = 1, 2, 4, 8
_GRIPPER_BIT = _FINGER_BIT | _BASE_BIT
_HULL, _MEETS_HULL = "base_hull", ("door_link",)  # beside all capsules
# The fingers' own; one for all, because MJX compiles a collision program per kind and condim.
_CONDIM = 4


def _collision_bits(model: Any, index: int, scene: str) -> tuple[int, int] | None:
    """(contype, conaffinity) of a geom; None for one that need not collide."""
    body = int(model.geom_bodyid[index])
    name = model.body(body).name
    if not (model.geom_contype[index] or model.geom_conaffinity[index]) or name in (
            "world", "right_l6"):
        return None
    if name in _GRIPPER:
        return (_BASE_BIT if name == "right_hand" else _FINGER_BIT), 0
    if name == "tablelink":
        return 0, _GRIPPER_BIT | (_MOVING_BIT if _has_free_object(model) else 0)
    touching = _TOUCHING.get(scene, Touching((), ()))
    key = name, _index_within(model, index)
    if name == "RetainingWall":
        return (0, _MOVING_BIT) if key in touching.fixed else None
    if model.body_weldid[body] == 0:
        return 0, _GRIPPER_BIT | (_MOVING_BIT if key in touching.fixed else 0)
    free = scene not in _TOUCHING or key in touching.moving
    return (_MOVING_BIT if free else 0), _GRIPPER_BIT


def _has_free_object(model: Any) -> bool:
    return model.nq > model.nv


def _index_within(model: Any, index: int) -> int:
    """Which of its body's colliding geoms this is."""
    body = model.geom_bodyid[index]
    return sum(bool(model.geom_contype[g] or model.geom_conaffinity[g])
               for g in range(index) if model.geom_bodyid[g] == body)


def _drop_decoration(spec: Any, keep: Collection[str] = ()) -> None:
    """Deletes what nothing collides with; meshes of the names in `keep` stay."""
    for kind in ("meshes", "materials", "textures", "cameras", "lights"):
        for item in list(getattr(spec, kind)):
            if kind != "meshes" or item.name not in keep:
                spec.delete(item)
