"""Films a trained policy on one task.

    varshare-render --run=runs/x --task=twitchy --out=twitchy.gif

Plays the newest checkpoint of the run and writes a GIF, or an MP4 where ffmpeg is installed.
"""

from pathlib import Path

from absl import flags

from varshare_jax.cli import _app
from varshare_jax.playing.settings import WEIGHTS


def _main(argv: list[str]) -> None:
    _app.no_arguments(argv)
    run, given = _app.named_run(), flags.FLAGS
    if not given.task:
        raise _app.UserError("--task: name a task of the run's suite")
    if given.weights not in WEIGHTS:
        raise _app.unknown("--weights", given.weights, WEIGHTS)
    _app.positive("episodes", "fps")
    from varshare_jax.playing.rendering import render_run  # it imports JAX

    out = Path(given.out or f"{given.task}.gif")
    render_run(run, given.task, out, episodes=given.episodes, fps=given.fps,
               weights=given.weights, seed=given.eval_seed, member=given.member)
    print(out)


def main() -> None:
    """Entry point of `varshare-render`."""
    flags.DEFINE_string("run", "", "folder of the run to film, or a file of varshare-prune")
    flags.DEFINE_string("task", "", "task to film")
    flags.DEFINE_integer("episodes", 1, "episodes, one after another")
    flags.DEFINE_float("fps", 50.0, "frames, which are steps, per second; a GIF shows up to 50")
    flags.DEFINE_string("weights", "mean", f"weights to play with ({' | '.join(WEIGHTS)})")
    flags.DEFINE_integer("eval_seed", 1, "seed of the episodes; training never uses it")
    flags.DEFINE_integer("member", 0, "which of the run's seeds plays, counted from 0")
    flags.DEFINE_string("out", "", "film to write, .gif or .mp4; default: <task>.gif")
    _app.run(_main)


if __name__ == "__main__":
    main()
