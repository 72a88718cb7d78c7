"""Films of a trained policy: frames drawn by the suite, a caption under each, GIF or MP4."""

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from varshare_jax.algorithms import acting
from varshare_jax.algorithms.base import Problem
from varshare_jax.errors import UserError, unknown
from varshare_jax.playing import policies
from varshare_jax.playing.evaluation import evaluation_key
from varshare_jax.playing.policies import Policy
from varshare_jax.runs.monitoring import Progress
from varshare_jax.types import Player, Step

FORMATS = (".gif", ".mp4")
_BAR = 34  # pixels of the caption
_PAPER, _INK = "#f3f4f6", "#111827"


class Frame(NamedTuple):
    """A moment of an episode: the picture, steps so far, undiscounted return so far."""

    picture: np.ndarray
    step: int
    total: float


def render_run(path: Path, task: str, out: Path, *, episodes: int = 1, fps: float = 50.0,
               weights: str = "mean", seed: int = 1, member: int = 0,
               quiet: bool = False) -> list[float]:
    """Films `episodes` of one task, played by seed number `member` of a run; their returns.

    `path` is a run folder or a pruned file. Raises UserError for an unknown task, a suite
    without pictures, or a format that cannot be written here.
    """
    write = _writer(out)
    policy = policies.load(path, weights)
    names = policy.problem.suite.task_names
    if task not in names:
        raise unknown("--task", task, names)
    if not 0 <= member < policy.num_seeds:
        raise UserError(f"--member={member}: the run has {policy.num_seeds} seeds, "
                        f"0 to {policy.num_seeds - 1}")
    progress = Progress(f"{policy.problem.suite.name}/{task}", episodes, 1, 1, quiet)
    frames, returns = [], []
    for episode in range(episodes):
        with progress.working(f"episode {episode + 1} of {episodes}"):
            key = evaluation_key(seed, episode)
            for frame in play(policy, member, names.index(task), key, weights):
                frames.append(caption(frame, task, episode + 1 if episodes > 1 else None))
        returns.append(frame.total)
        progress.say(f"episode {episode + 1} of {episodes}: return {frame.total:.4g} in "
                     f"{frame.step} steps")
    with progress.working(f"writing {len(frames)} frames"):
        write(out, frames, fps)
    return returns


def play(policy: Policy, member: int, task: int, key: jax.Array,
         weights: str = "mean") -> Iterator[Frame]:
    """One episode of a task, frame by frame; the policy acts by its mode, as in evaluations.

    All tasks are stepped, one env of each, and one of them is drawn. The state in which an
    episode ends has given way to the next one's start, so the last picture is of the step before.
    """
    problem, suite = policy.problem, policy.problem.suite
    player = policy.of_seed(member)
    reset_key, weights_key, step_key = jax.random.split(key, 3)
    if weights == "sample":
        player = player.replace(variables=problem.network.sample(player.variables, weights_key))
    state, obs = suite.reset(jax.random.split(reset_key, (suite.num_tasks, 1)))
    advance = _stepper(problem)
    picture, total = suite.render(state, task), 0.0
    yield Frame(picture, 0, total)
    for step in range(1, suite.horizon + 1):
        key = jax.random.fold_in(step_key, step)
        state, out = advance(player, key, state, obs)
        obs, total = out.obs, total + float(out.reward[task, 0])
        done = bool(out.terminated[task, 0] | out.truncated[task, 0])
        picture = picture if done else suite.render(state, task)
        yield Frame(picture, step, total)
        if done:
            return


@functools.cache
def _stepper(problem: Problem) -> Callable[..., tuple[Any, Step]]:
    """One step of one env of every task, compiled once for each problem."""
    def step(player: Player, key: jax.Array, state: Any, obs: jax.Array):
        action = acting.policy(problem, player, obs).mode()
        keys = jax.random.split(key, (problem.suite.num_tasks, 1))
        return problem.suite.step(keys, state, action)

    return jax.jit(step, compiler_options=dict(problem.suite.compiler_options))


def caption(frame: Frame, task: str, episode: int | None = None) -> np.ndarray:
    """The picture [H, W, 3] with a bar below it: task, episode if there are several, step, return.
    """
    from PIL import Image, ImageDraw

    width = frame.picture.shape[1]
    title = task if episode is None else f"{task}, episode {episode}"
    bar = Image.new("RGB", (width, _BAR), _PAPER)
    pen, middle = ImageDraw.Draw(bar), _BAR / 2
    pen.text((10, middle), title, _INK, _font(), anchor="lm")
    pen.text((width - 130, middle), f"step {frame.step}", _INK, _font(), anchor="rm")
    pen.text((width - 10, middle), f"return {frame.total:.1f}", _INK, _font(), anchor="rm")
    return np.concatenate([frame.picture, np.asarray(bar)])


@functools.cache
def _font():
    """DejaVu Sans, which comes with matplotlib."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), 15)


def _writer(out: Path) -> Callable[[Path, list[np.ndarray], float], None]:
    """Who writes the format of `out`; raises UserError before anything is played."""
    if out.suffix not in FORMATS:
        raise UserError(f"--out={out}: must end in {' or '.join(FORMATS)}")
    if out.suffix == ".gif":
        return write_gif
    if not shutil.which("ffmpeg"):
        raise UserError(f"--out={out}: MP4 needs ffmpeg, which is not installed; install it (such "
                        "as apt install ffmpeg) or name a .gif")
    return write_mp4


def write_gif(out: Path, frames: list[np.ndarray], fps: float) -> None:
    """Frames [H, W, 3] as a GIF that repeats, whole or not at all.

    All share the colours of a few of them: a palette of each one's own would flicker and be
    larger. GIFs count in hundredths of a second, so `fps` is rounded to what they can show.
    """
    from PIL import Image

    some = frames[::max(1, len(frames) // 8)]
    palette = Image.fromarray(np.concatenate(some)).quantize(128, dither=Image.Dither.NONE)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
              for frame in frames]
    partial = _partial(out)
    images[0].save(partial, "GIF", save_all=True, append_images=images[1:], loop=0,
                   duration=10 * max(2, round(100 / fps)), optimize=False)
    os.replace(partial, out)


def write_mp4(out: Path, frames: list[np.ndarray], fps: float) -> None:
    """Frames [H, W, 3] as H.264 by ffmpeg, whole or not at all; raises UserError if it fails."""
    height, width, _ = frames[0].shape
    partial = _partial(out)
    done = subprocess.run(
        ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
         "-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-vf", "pad=ceil(iw/2)*2:"
         "ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-f", "mp4", str(partial)],
        input=b"".join(frame.tobytes() for frame in frames), capture_output=True, check=False)
    if done.returncode:
        partial.unlink(missing_ok=True)
        raise UserError(f"--out={out}: ffmpeg failed: {done.stderr.decode(errors='replace')}")
    os.replace(partial, out)


def _partial(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.with_name(out.name + ".partial")
