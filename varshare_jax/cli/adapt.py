"""Learns each task that a run has left out, from what the others share.

    varshare-train --leave_out=all --num_seeds=5 --run_dir=runs/loo
    varshare-adapt --run=runs/loo --total_steps=100_000 --run_dir=runs/adapted

Every task is learned alone, by the regimes in --regime, all in one program: `scratch`, from a new
network; `full`, from the shared parameters of the fold that never saw the task; `residual`, from
these and without changing them, by what the method offers a new task; `unfreeze`, as `residual`
for --adapt.unfreeze_after updates, then as `full`. Settings are those of the run; flags change
them. The folder gets what `varshare-train` leaves, with a folder for each regime, and
zero_shot.json: the tasks as they are played before anything is learned of them. A stopped run goes
on with --resume and the same flags.
"""

from pathlib import Path

from absl import flags

from varshare_jax.cli import _app
from varshare_jax.methods.settings import REGIMES


def _main(argv: list[str]) -> int:
    _app.no_arguments(argv)
    given = flags.FLAGS
    run = _app.named_run()
    if not given.run_dir:
        raise _app.UserError("--run_dir: name a folder for the adaptation, such as runs/adapted")
    from varshare_jax.playing.zero_shot import zero_shot  # here, as --help does without JAX
    from varshare_jax.runner import train
    from varshare_jax.runs.files import write_json
    from varshare_jax.runs.signals import STOPPED, leave
    from varshare_jax.runs.transfer import settings_of

    base = settings_of(run) | {"adapt.regime": given.regime, "adapt.start": given.start}
    config = _app.config_from_flags(over=base)
    result = train(config, resume=given.resume, presets=tuple(given.preset), leave=leave)
    if result.summary is None:
        return STOPPED
    file = Path(given.run_dir) / "zero_shot.json"
    if config.adapt.inherits and not file.exists():
        write_json(file, zero_shot(config, config.run.final_eval_episodes))
    return 0


def main() -> None:
    """Entry point of `varshare-adapt`."""
    _app.define_config_flags()
    flags.DEFINE_string("run", "", "folder of the run that has left out each of the tasks")
    flags.DEFINE_string("regime", "scratch,full,residual",
                        f"how they are learned: of {' | '.join(REGIMES)}, with commas")
    flags.DEFINE_string("start", "fresh", "what a method offers a new task begins as for any task, "
                                          "as the mean of the others', or as that of the other "
                                          "that plays it best (fresh | mean | best)")
    flags.DEFINE_bool("resume", False, "continue the adaptation in --run_dir, or start it there")
    flags.adopt_module_key_flags(_app)
    _app.run(_main)


if __name__ == "__main__":
    main()
