"""Trains one method on one suite, many seeds in one compiled program.

    varshare-train --suite=cartpole10 --method=varshare --num_seeds=8 --total_steps=5_000_000 \\
        --run_dir=runs/x

Suites: cartpole10 (ten cart-poles), lunar_lander20 and lunar_lander20_continuous (twenty landings),
classic5 (five unlike tasks), mt10, mt3, mt1:<task> (Meta-World), their single tasks cartpole and
lunar_lander, gymnax:<id> (gymnax:Pendulum-v1, ...), brax:<id> (brax:halfcheetah, ...),
brax_halfcheetah9 (nine of unlike physics).
Methods: varshare, varshare_lora, varshare_horseshoe, varshare_trust_region, independent,
hard_sharing, feature_sharing, contextual, one_hot, l2_soft, paco, soft_modularization, pcgrad,
cagrad, contextual_pcgrad, contextual_cagrad.
The run folder gets config.json, train.jsonl, eval.jsonl, TensorBoard events, checkpoints and, at
the end, summary.json. A stopped or killed run goes on with --resume and the same flags, or with
--run_dir and --resume alone. Exit status 75: a signal has stopped it, and it can go on; 3: every
seed diverged.
Several hosts share the members of a run with --distributed.coordinator, .process and .processes.
`varshare-report runs --out report.html` compares runs.
"""

from pathlib import Path

from absl import flags

from varshare_jax.cli import _app
from varshare_jax.runs.settings import DistributedConfig
from varshare_jax.settings import leaves, replace

ALL_DIVERGED = 3
_DISTRIBUTED = tuple(leaves(DistributedConfig(), f"{DistributedConfig.section}."))


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    distributed = replace(DistributedConfig(), {leaf.name.partition(".")[2]: given[leaf.name].value
                                                for leaf in _DISTRIBUTED})
    distributed.check()
    from varshare_jax.runner import train  # here, as --help does without JAX
    from varshare_jax.runs.signals import STOPPED, leave

    if len(argv) > 1:
        raise _app.UserError(f"argument {argv[1]}: unexpected; flags are written --name=value")
    if not given.run_dir:
        raise _app.UserError("--run_dir: name a folder for the run, such as runs/my_run")
    config = _app.config_from_flags(Path(given.run_dir) if given.resume else None)
    result = train(config, resume=given.resume, presets=tuple(given.preset), leave=leave,
                   distributed=distributed)
    if result.summary is None:
        return STOPPED
    diverged = {entry["member"] for entry in result.summary["diverged"]}
    return ALL_DIVERGED if len(diverged) == len(config.members()) else 0


def main() -> None:
    """Entry point of `varshare-train`."""
    _app.define_config_flags()
    flags.DEFINE_bool("resume", False, "continue the run in --run_dir, or start it there")
    for leaf in _DISTRIBUTED:
        _app.define_leaf(leaf)
    flags.adopt_module_key_flags(_app)
    _app.run(_main)


if __name__ == "__main__":
    main()
