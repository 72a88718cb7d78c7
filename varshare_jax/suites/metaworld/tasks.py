"""Meta-World's tasks as pure functions of a few positions, apart from any stepping.

Observation, reward (V1 and V2) and success of ten tasks of `metaworld` 3.0.0 (Yu et al. 2019,
arXiv 1910.10897; McLean et al. 2025, arXiv 2505.11289). A `Snapshot` may come from MJX or from
MuJoCo. Everything is written for one env in metres; batches are a matter of `jax.vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.errors import unknown
from varshare_jax.suites.metaworld.rewards import bell, hamacher, norm, tolerance, within_prism

FRAME_SIZE = 18
OBSERVATION_SIZE = 2 * FRAME_SIZE + 3
HAND_LOW, HAND_HIGH = np.array([-0.5, 0.4, 0.05]), np.array([0.5, 1.0, 0.5])
_HAND_SPACE = np.array([-0.525, 0.348, -0.0525]), np.array([0.525, 1.025, 0.7])
_FINGER_SPAN = 0.1  # m between open fingers, where the observed opening is 1


class Snapshot(NamedTuple):
    """What a task looks at; positions [3] in the world's frame."""

    hand: jax.Array
    left_claw: jax.Array
    right_claw: jax.Array
    left_pad: jax.Array
    right_pad: jax.Array
    left_tip: jax.Array
    right_tip: jax.Array
    object: jax.Array
    object_quat: jax.Array  # [4], real part first
    landmarks: jax.Array  # [K, 3], the points that the task names
    joint: jax.Array  # [], position of the door, drawer, button or window; 0 for free objects

    @property
    def tcp(self) -> jax.Array:
        """Tool centre point: the middle of the fingertips."""
        return (self.left_tip + self.right_tip) / 2


class Setup(NamedTuple):
    """What an episode is about, fixed at its reset."""

    target: jax.Array  # [3], the goal
    object: jax.Array  # [3], where Meta-World takes the object to start
    tcp: jax.Array  # [3], the tool centre point once the hand has settled
    start: jax.Array  # [3], the task's further starting point: a handle, the peg's head


SetupFunction = Callable[[jax.Array, Snapshot], Setup]
"""(random vector [K], snapshot after the hand has settled in this scene) -> Setup."""
RewardFunction = Callable[[jax.Array, Snapshot, jax.Array, Setup], tuple[jax.Array, jax.Array]]
"""(frame [18] clipped, snapshot, action [4], setup) -> (reward, distance that means success)."""


Point = tuple[float, float, float]


class Task(NamedTuple):
    """One task: where it draws its episodes from and how it judges a state."""

    name: str
    scene: str  # name of its XML in the package
    low: tuple[float, ...]  # [K], bounds of the random vector: one point or two
    high: tuple[float, ...]
    hand: Point  # where the hand settles before an episode
    frame: tuple[str, str]  # what is observed: kind (body, geom or site) and name
    setup: SetupFunction
    v1: RewardFunction
    v2: RewardFunction
    radius: float  # m, of success
    goal_low: Point = tuple(HAND_LOW.tolist())  # bounds within which the goal is shown
    goal_high: Point = tuple(HAND_HIGH.tolist())
    body: str = ""  # the body of the scene that the random vector's last point moves
    joint: str = ""  # the scene's own joint, if its object is not free
    start: float = 0.0  # where that joint starts
    apart: float = 0.0  # m in the plane that the two points must lie apart
    offset: Point = (0.0, 0.0, 0.0)  # from the frame to the point observed
    shown_start: Point = (0.0, 0.0, 0.0)  # how `start` moves what the reset shows
    quat: str = "none"
    landmarks: tuple[str, ...] = ()  # sites [K]

    def observe(self, snapshot: Snapshot) -> jax.Array:
        """One frame [18]: hand, finger opening, the object's position and quaternion, zeros."""
        opening = jnp.clip(norm(snapshot.right_claw - snapshot.left_claw) / _FINGER_SPAN, 0, 1)
        return jnp.concatenate([
            snapshot.hand, opening[None], snapshot.object + jnp.asarray(self.offset),
            _QUATERNIONS[self.quat](snapshot.object_quat), jnp.zeros(7)])

    def clip(self, frame: jax.Array) -> jax.Array:
        """A frame within the bounds of the observation space, as `step` returns it."""
        hand = jnp.clip(frame[:3], *_HAND_SPACE)
        return jnp.concatenate([hand, jnp.clip(frame[3:4], -1, 1), frame[4:]])

    def goal(self, setup: Setup) -> jax.Array:
        """The goal [3] as `step` shows it."""
        return jnp.clip(setup.target, jnp.asarray(self.goal_low), jnp.asarray(self.goal_high))

    def judge(self, version: str, snapshot: Snapshot, action: jax.Array,
              setup: Setup) -> tuple[jax.Array, jax.Array]:
        """(reward, success) after `action` [4] led to `snapshot`; `version` is `v1` or `v2`."""
        frame = self.clip(self.observe(snapshot))
        reward, distance = getattr(self, version)(frame, snapshot, jnp.clip(action, -1, 1), setup)
        return reward, distance <= self.radius


def _real_last(quat: jax.Array) -> jax.Array:
    """Real part last and the largest component positive, as SciPy turns matrices into them."""
    quat = jnp.roll(quat, -1)
    largest = quat[jnp.argmax(jnp.abs(quat))]
    return quat * jnp.where(largest < 0, -1.0, 1.0)


_QUATERNIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": jnp.zeros_like, "real_first": lambda q: q, "real_last": _real_last}


def _closing(action: jax.Array) -> jax.Array:
    return jnp.clip(action[3], 0, 1)


def _caging(snapshot: Snapshot, obj: jax.Array, action: jax.Array, setup: Setup, *, radius: float,
            reach: float) -> jax.Array:
    """How well the open fingers enclose the object, and whether they then close, in [0, 1].

    `radius` of the object and `reach`, the distance within which a pad encloses it, in m. The
    margin of the sides follows the pads' distance to where the object began.
    """
    pads = jnp.stack([snapshot.left_pad[1], snapshot.right_pad[1]])
    margin = jnp.abs(jnp.abs(pads - setup.object[1]) - reach)
    sides = tolerance(jnp.abs(pads - obj[1]), radius, reach, margin)
    return _grasp(snapshot, obj, action, setup, sides)


def _grasp(snapshot: Snapshot, obj: jax.Array, action: jax.Array, setup: Setup,
           sides: jax.Array) -> jax.Array:
    """Caging from its two sides [2] and the distance in the x-z plane, joined with closing."""
    plane = np.array([0, 2])
    margin = norm(setup.object[plane] - setup.tcp[plane]) - 0.005
    depth = tolerance(norm(snapshot.tcp[plane] - obj[plane]), 0, 0.005, margin)
    caging = hamacher(hamacher(sides[0], sides[1]), depth)
    gripping = jnp.where(caging > 0.97, _closing(action), 0.0)
    return (hamacher(caging, gripping) + caging) / 2


# ---------------------------------------------------------------------------------------- reach


def _reach_setup(vector, settled):
    return Setup(vector[3:], vector[:3], settled.tcp, vector[:3])


def _reach_v2(frame, snapshot, action, setup):
    distance = norm(snapshot.tcp - setup.target)
    margin = norm(jnp.asarray(_PUCK_HAND) - setup.target)
    return 10 * tolerance(distance, 0, 0.05, margin), distance


def _reach_v1(frame, snapshot, action, setup):
    distance = norm(snapshot.tcp - setup.target)
    longest = norm(setup.tcp - setup.target)
    return jnp.maximum(1000 * (longest - distance) + bell(distance), 0), distance


# ----------------------------------------------------------------------------------------- push


def _push_setup(vector, settled):
    """The goal and the start lie as high as the puck does once it has settled."""
    height = settled.object[2:]
    start = jnp.concatenate([vector[:2], height])
    return Setup(jnp.concatenate([vector[3:5], height]), start, settled.tcp, start)


def _push_v2(frame, snapshot, action, setup):
    obj, opening = frame[4:7], frame[3]
    distance = norm(obj - setup.target)
    in_place = tolerance(distance, 0, 0.05, norm(setup.object - setup.target))
    reward = 2 * _caging(snapshot, obj, action, setup, radius=0.015, reach=0.05)
    held = (norm(obj - snapshot.tcp) < 0.02) & (opening > 0)
    reward = jnp.where(held, 2 * reward + 1 + 5 * in_place, reward)
    return jnp.where(distance < 0.05, 10.0, reward), distance


def _push_v1(frame, snapshot, action, setup):
    obj = frame[4:7]
    reach = norm(snapshot.tcp - obj)
    distance = norm(obj[:2] - setup.target[:2])
    longest = norm(setup.object[:2] - setup.target[:2])
    push = jnp.maximum(1000 * (longest - distance) + bell(distance), 0)
    return jnp.where(reach < 0.05, push, 0.0) - reach, distance


# ----------------------------------------------------------------------------------- pick-place


def _pick_place_setup(vector, settled):
    return Setup(vector[3:], vector[:3], settled.tcp, vector[:3])


def _pick_place_v2(frame, snapshot, action, setup):
    obj, opening = frame[4:7], frame[3]
    distance = norm(obj - setup.target)
    in_place = tolerance(distance, 0, 0.05, norm(setup.object - setup.target))
    # Meta-World means the pads' first positions here, but keeps views of the present ones.
    pads = jnp.stack([snapshot.left_pad[1], snapshot.right_pad[1]])
    margin = jnp.abs(jnp.abs(obj[1] - pads) - 0.05)
    gaps = jnp.stack([snapshot.left_pad[1] - obj[1], obj[1] - snapshot.right_pad[1]])
    grasped = _grasp(snapshot, obj, action, setup, tolerance(gaps, 0.015, 0.05, margin))
    lifted = ((norm(obj - snapshot.tcp) < 0.02) & (opening > 0)
              & (obj[2] - 0.01 > setup.object[2]))
    reward = hamacher(grasped, in_place) + jnp.where(lifted, 1 + 5 * in_place, 0.0)
    return jnp.where(distance < 0.05, 10.0, reward), distance


class _Lift(NamedTuple):
    """The reaching and lifting terms that V1 of pick-place and of peg-insert share."""

    reward: jax.Array
    holds: jax.Array  # the object is up and in the hand
    longest: jax.Array  # m


def _lift_v1(frame, snapshot, action, setup, distance, *, height, above) -> _Lift:
    """`height` to lift in m; `above` weighs the hand's height while it is far in the plane."""
    obj, tcp = frame[4:7], snapshot.tcp
    ground, goal = setup.object[2], setup.object[2] + height
    reach, flat = norm(obj - tcp), norm(obj[:2] - tcp[:2])
    approach = -jnp.where(flat < 0.05, reach, flat + above * jnp.abs(tcp[2] - setup.tcp[2]))
    approach = jnp.where(reach < 0.05, jnp.maximum(action[3], 0) / 50 - reach, approach)
    dropped = (obj[2] < ground + 0.005) & (distance > 0.02) & (reach > 0.02)
    up = (obj[2] >= goal - 0.01) & ~dropped
    rising = (reach < 0.1) & (obj[2] > ground + 0.005)
    pick = jnp.where(up, 100 * goal, jnp.where(rising, 100 * jnp.minimum(goal, obj[2]), 0.0))
    from_above = jnp.concatenate([setup.object[:2], goal[None]])
    return _Lift(approach + pick, up & (reach < 0.1), norm(from_above - setup.target) + goal)


def _pick_place_v1(frame, snapshot, action, setup):
    distance = norm(frame[4:7] - setup.target)
    lift = _lift_v1(frame, snapshot, action, setup, distance, height=0.04, above=2.0)
    place = jnp.maximum(1000 * (lift.longest - distance) + bell(distance), 0)
    return lift.reward + jnp.where(lift.holds, place, 0.0), distance


# -------------------------------------------------------------------------------------- handles


def _handle_v1(obj, snapshot, distance, longest, *, floor=True):
    """V1 of all tasks with a handle: reach it, then close the `distance` to its goal (m)."""
    reach = norm(obj - snapshot.tcp)
    pull = 1000 * (longest - distance) + bell(distance)
    pull = jnp.maximum(pull, 0) if floor else pull
    return jnp.where(reach < 0.05, pull, 0.0) - reach, distance


def _door_setup(vector, settled):
    target = vector + jnp.array([-0.3, -0.45, 0.0])
    return Setup(target, vector, settled.tcp, settled.object)


def _door_v2(frame, snapshot, action, setup):
    hand, handle = frame[:3], frame[4:7] - jnp.array([0.05, 0, 0])
    radius = norm(hand[:2] - handle[:2])
    far = radius > 0.12
    floor = jnp.where(far, 0.04 * jnp.log(jnp.where(far, radius - 0.12, 1.0)) + 0.4, 0.0)
    above = tolerance(floor - hand[2], 0, 0.01, jnp.where(hand[2] >= floor, 1.0, floor / 2))
    above = jnp.where(hand[2] >= floor, 1.0, above)
    near = tolerance(norm(hand - handle - jnp.array([0.05, 0.03, -0.01])), 0, 0.06, 0.5)
    ready = hamacher(above, near)
    to_open = np.pi / 2 + np.pi / 6 + snapshot.joint
    opened = (0.2 * (snapshot.joint < -np.pi / 90)
              + 0.8 * tolerance(to_open, 0, 0.5, np.pi / 3))
    reward = 2 * hamacher(ready, (action[3] + 1) / 2) + 8 * opened
    distance = jnp.abs(frame[4] - setup.target[0])
    return jnp.where(distance <= 0.08, 10.0, reward), distance


def _door_v1(frame, snapshot, action, setup):
    obj = frame[4:7]
    longest = norm(setup.start[:2] - setup.target[:2])
    reward, _ = _handle_v1(obj, snapshot, norm(obj[:2] - setup.target[:2]), longest)
    return reward, jnp.abs(obj[0] - setup.target[0])


def _drawer_open_setup(vector, settled):
    return Setup(vector + jnp.array([0.0, -0.36, 0.09]), vector, settled.tcp, vector)


def _drawer_open_v2(frame, snapshot, action, setup):
    hand, handle = frame[:3], frame[4:7]
    distance = norm(handle - setup.target)
    opening = tolerance(distance, 0, 0.02, 0.2)
    scale = jnp.array([3.0, 3.0, 1.0])
    at_start = norm((setup.target + jnp.array([0, 0.2, 0]) - setup.tcp) * scale)
    caging = tolerance(norm((handle - hand) * scale), 0, 0.01, at_start)
    return 5 * (caging + opening), distance


def _drawer_open_v1(frame, snapshot, action, setup):
    distance = jnp.abs(frame[5] - setup.target[1])
    return _handle_v1(frame[4:7], snapshot, distance, 0.2)


def _drawer_close_setup(vector, settled):
    """The settled drawer is shut; the episode starts with it pulled out by 0.15 m."""
    start = settled.object + jnp.array([0.0, -0.16 - 0.15, 0.05])
    return Setup(vector + jnp.array([0.0, -0.16, 0.09]), start, settled.tcp, start)


def _drawer_close_v2(frame, snapshot, action, setup):
    obj = frame[4:7]
    distance, at_start = norm(obj - setup.target), norm(setup.object - setup.target)
    in_place = tolerance(distance, 0, 0.05, jnp.abs(at_start - 0.05))
    margin = jnp.abs(norm(setup.object - setup.tcp) - 0.005)
    reach = tolerance(norm(obj - snapshot.tcp), 0, 0.005, margin, "gaussian")
    reward = hamacher(hamacher(reach, _closing(action)), in_place)
    return 10 * jnp.where(distance <= 0.065, 1.0, reward), distance


def _drawer_close_v1(frame, snapshot, action, setup):
    distance = jnp.abs(frame[5] - setup.target[1])
    return _handle_v1(frame[4:7], snapshot, distance, 0.15)


# --------------------------------------------------------------------------------------- button


def _button_setup(vector, settled):
    hole, button = settled.landmarks
    return Setup(hole, vector, settled.tcp, button)


def _button_v2(frame, snapshot, action, setup):
    obj, opening = frame[4:7], frame[3]
    reach = norm(obj - snapshot.tcp)
    near = tolerance(reach, 0, 0.01, norm(obj - setup.tcp))
    distance = jnp.abs(setup.target[2] - obj[2])
    pressed = tolerance(distance, 0, 0.005, jnp.abs(setup.target[2] - setup.start[2]))
    reward = 5 * hamacher(1 - opening, near)
    return reward + jnp.where(reach <= 0.03, 5 * pressed, 0.0), distance


def _button_v1(frame, snapshot, action, setup):
    obj = frame[4:7]
    distance = jnp.abs(setup.target[2] - obj[2])
    return _handle_v1(obj, snapshot, distance, jnp.abs(setup.target[2] - setup.start[2]))


# ------------------------------------------------------------------------------------------ peg


def _peg_setup(vector, settled):
    target = vector[3:] + jnp.array([0.03, 0.0, 0.13])
    return Setup(target, vector[:3], settled.tcp, settled.landmarks[0])


def _peg_v2(frame, snapshot, action, setup):
    obj, opening = frame[4:7], frame[3]
    head, right_1, left_1, right_2, left_2 = snapshot.landmarks
    scale = jnp.array([1.0, 2.0, 2.0])
    distance = norm((head - setup.target) * scale)
    in_place = tolerance(distance, 0, 0.07, norm((setup.start - setup.target) * scale))
    clear = hamacher(within_prism(head, right_2, left_2), within_prism(head, right_1, left_1))
    in_place = hamacher(in_place, clear)
    lifted = ((norm(obj - snapshot.tcp) < 0.08) & (opening > 0)
              & (obj[2] - 0.01 > setup.object[2]))
    caged = _caging(snapshot, obj, action, setup, radius=0.0075, reach=0.03)
    reward = hamacher(jnp.where(lifted, 1.0, caged), in_place)
    reward = reward + jnp.where(lifted, 1 + 5 * in_place, 0.0)
    return jnp.where(distance <= 0.07, 10.0, reward), distance


def _peg_v1(frame, snapshot, action, setup):
    distance, head = norm(frame[4:7] - setup.target), norm(snapshot.landmarks[0] - setup.target)
    lift = _lift_v1(frame, snapshot, action, setup, distance, height=0.11, above=1.0)
    left = jnp.where(head <= 0.05, distance, head)
    place = jnp.maximum(1000 * (lift.longest - left) + bell(left), 0)
    return lift.reward + jnp.where(lift.holds, place, 0.0), distance


# -------------------------------------------------------------------------------------- windows


def _window_open_setup(vector, settled):
    return Setup(vector + jnp.array([0.2, 0, 0]), vector, settled.tcp, settled.object)


def _window_close_setup(vector, settled):
    return Setup(vector, vector, settled.tcp, settled.object + jnp.array([0.2, 0, 0]))


def _window_v2(frame, snapshot, setup, travel, sigmoid):
    """`travel`: the handle's distance from the goal at the start, m."""
    obj = frame[4:7]
    distance = jnp.abs(obj[0] - setup.target[0])
    in_place = tolerance(distance, 0, 0.05, jnp.abs(travel - 0.05))
    margin = jnp.abs(norm(setup.start - setup.tcp) - 0.02)
    reach = tolerance(norm(obj - snapshot.tcp), 0, 0.02, margin, sigmoid)
    return 10 * hamacher(reach, in_place), distance


def _window_open_v2(frame, snapshot, action, setup):
    travel = jnp.abs(setup.object[0] - setup.target[0])
    return _window_v2(frame, snapshot, setup, travel, "long_tail")


def _window_close_v2(frame, snapshot, action, setup):
    travel = jnp.abs(setup.start[0] - setup.target[0])
    return _window_v2(frame, snapshot, setup, travel, "gaussian")


def _window_v1(frame, snapshot, action, setup):
    distance = jnp.abs(frame[4] - setup.target[0])
    return _handle_v1(frame[4:7], snapshot, distance, 0.2, floor=False)


# ---------------------------------------------------------------------------------------- table

_PUCK_HAND = (0.0, 0.6, 0.2)
# Some of Meta-World's tasks keep the place of the hand in float32.
_DRAWER_HAND: Point = tuple(np.array(_PUCK_HAND, np.float32).tolist())
_FAR_HAND: Point = tuple(np.array((0.0, 0.4, 0.2), np.float32).tolist())
_PUCK: dict[str, Any] = {
         "hand": _PUCK_HAND, "frame": ("body", "obj"), "quat": "real_last", "apart": 0.15,
         "scene": "sawyer_push_v3"}  # the scenes of reach, push and pick-place do not differ
_PUCK_LOW, _PUCK_HIGH = (-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)
_DRAWER: dict[str, Any] = {
           "scene": "sawyer_drawer", "low": (-0.1, 0.9, 0.0), "high": (0.1, 0.9, 0.0),
           "hand": _DRAWER_HAND, "frame": ("body", "drawer_link"), "body": "drawer",
           "joint": "goal_slidey"}
_WINDOW: dict[str, Any] = {
           "scene": "sawyer_window_horizontal", "hand": _FAR_HAND, "body": "window",
           "joint": "window_slide", "radius": 0.05, "v1": _window_v1}

TASKS: dict[str, Task] = {task.name: task for task in (
    Task("reach", low=(*_PUCK_LOW, -0.1, 0.8, 0.05), high=(*_PUCK_HIGH, 0.1, 0.9, 0.3),
         goal_low=(-0.1, 0.8, 0.05), goal_high=(0.1, 0.9, 0.3), radius=0.05,
         setup=_reach_setup, v1=_reach_v1, v2=_reach_v2, **_PUCK),
    Task("push", low=(*_PUCK_LOW, -0.1, 0.8, 0.01), high=(*_PUCK_HIGH, 0.1, 0.9, 0.02),
         goal_low=(-0.1, 0.8, 0.01), goal_high=(0.1, 0.9, 0.02), radius=0.05,
         setup=_push_setup, v1=_push_v1, v2=_push_v2, **_PUCK),
    Task("pick-place", low=(*_PUCK_LOW, -0.1, 0.8, 0.05), high=(*_PUCK_HIGH, 0.1, 0.9, 0.3),
         goal_low=(-0.1, 0.8, 0.05), goal_high=(0.1, 0.9, 0.3), radius=0.07,
         setup=_pick_place_setup, v1=_pick_place_v1, v2=_pick_place_v2, **_PUCK),
    Task("door-open", "sawyer_door_pull", low=(0.0, 0.85, 0.15), high=(0.1, 0.95, 0.15),
         goal_low=(-0.3, 0.4, 0.1499), goal_high=(-0.2, 0.5, 0.1501), hand=_PUCK_HAND,
         frame=("geom", "handle"), quat="real_last", radius=0.08, body="door",
         joint="doorjoint", setup=_door_setup, v1=_door_v1, v2=_door_v2),
    Task("drawer-open", offset=(0.0, -0.16, 0.0), quat="real_first", radius=0.03,
         setup=_drawer_open_setup, v1=_drawer_open_v1, v2=_drawer_open_v2, **_DRAWER),
    Task("drawer-close", offset=(0.0, -0.16, 0.05), start=-0.15, shown_start=(0.0, -0.15, 0.0),
         radius=0.065, setup=_drawer_close_setup, v1=_drawer_close_v1, v2=_drawer_close_v2,
         **_DRAWER),
    Task("button-press-topdown", "sawyer_button_press_topdown", low=(-0.1, 0.8, 0.115),
         high=(0.1, 0.9, 0.115), hand=_FAR_HAND, frame=("body", "button"), quat="real_first",
         offset=(0.0, 0.0, 0.193), radius=0.024, body="box", joint="btnbox_joint",
         landmarks=("hole", "buttonStart"),
         setup=_button_setup, v1=_button_v1, v2=_button_v2),
    Task("peg-insert-side", "sawyer_peg_insertion_side", low=(0.0, 0.5, 0.02, -0.35, 0.4, -0.001),
         high=(0.2, 0.7, 0.02, -0.25, 0.7, 0.001), goal_low=(-0.32, 0.4, 0.129),
         goal_high=(-0.22, 0.7, 0.131), hand=_PUCK_HAND, frame=("site", "pegGrasp"),
         quat="real_last", radius=0.07, body="box", apart=0.1,
         landmarks=("pegHead", "bottom_right_corner_collision_box_1",
                    "top_left_corner_collision_box_1", "bottom_right_corner_collision_box_2",
                    "top_left_corner_collision_box_2"),
         setup=_peg_setup, v1=_peg_v1, v2=_peg_v2),
    Task("window-open", low=(-0.1, 0.7, 0.16), high=(0.1, 0.9, 0.16),
         frame=("site", "handleOpenStart"), setup=_window_open_setup, v2=_window_open_v2,
         **_WINDOW),
    Task("window-close", low=(0.0, 0.75, 0.2), high=(0.0, 0.9, 0.2), start=0.2,
         frame=("site", "handleCloseStart"), setup=_window_close_setup, v2=_window_close_v2,
         **_WINDOW),
)}
"""The tasks of MT10 in its order, by name without Meta-World's version suffix."""


def get(name: str) -> Task:
    """A task by its name, with or without `-v3`; raises UserError for an unknown one."""
    if (short := name.removesuffix("-v3")) not in TASKS:
        raise unknown("Meta-World task", name, TASKS)
    return TASKS[short]
