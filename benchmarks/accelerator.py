"""What only an accelerator can show, in ten minutes: `make accelerator-check`.

Whether it computes what the CPU computes, how fast every suite trains there with how many
environments, what seeds side by side cost, how long the first compile takes, whether MT3 is
learned. Each check is a process; one that fails is named, and the others go on.
`--smoke` runs tiny sizes, on any device.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.processes import QUICK, ROOT, Failed, ask, write_report
from varshare_jax.algorithms import ALGORITHMS
from varshare_jax.methods import METHODS
from varshare_jax.suites import SUITES

_TIMEOUT = 240  # seconds that one check may take
_AGREES = 0.05  # a greater relative error of a step is no rounding
_JOBS = 4  # checks of agreement side by side; what is timed runs alone
_SMALL = {"network.hidden": [32, 32],
          **{f"{a}.{name}": value for a in ("ppo", "vmpo")
             for name, value in {"num_envs": 4, "rollout_length": 16}.items()},
          **{f"{a}.{name}": value for a in ("dqn", "sac", "ddpg", "mpo")
             for name, value in {"num_envs": 4, "rollout_length": 16, "learning_starts": 16,
                                 "batch_size": 16, "replay_size": 256}.items()}}
_SCENES = {"metaworld.physics": "mjx", "metaworld.training_horizon": 200}
_TINY = {"ppo.num_envs": 2, "ppo.rollout_length": 4, "network.hidden": [8], "run.log_every": 2,
         "num_seeds": 2}


@dataclasses.dataclass(frozen=True)
class Check:
    """One process: `kind` is a function of `module`, `settings` its work."""

    section: str
    name: str
    settings: Mapping[str, Any]
    kind: str = "train"
    module: str = "benchmarks.worker"
    tiny: Mapping[str, Any] | None = None  # what a smoke test changes; None: it leaves this out

    @property
    def alone(self) -> bool:
        return self.kind != "agreement"


def checks() -> Iterator[Check]:
    """All of them, what matters most first: time may run out."""
    yield from _agreement()
    yield Check("compile", "first compile, cartpole10",
                {"suite": "cartpole10", "ppo.num_envs": 64}, "start", tiny=_TINY)
    for seeds in (1, 16):
        yield Check("seeds", f"cartpole10, 16 envs, {seeds} seeds",
                    {"suite": "cartpole10", "ppo.num_envs": 16, "num_seeds": seeds},
                    tiny=_TINY | {"num_seeds": min(seeds, 2)})
    for suite in ("cartpole10", "lunar_lander20"):
        for envs in (64, 512, 4096):
            yield Check("throughput", f"{suite}, {envs} envs per task",
                        {"suite": suite, "ppo.num_envs": envs, "run.log_every": 4},
                        tiny=_TINY if envs == 64 else None)
    yield Check("learning", "mt3, 512 envs per task, 2 M steps",
                {"suite": "mt3", "method": "l2_soft", "total_steps": 2_000_000,
                 "ppo.num_envs": 512, "ppo.rollout_length": 50, "network.hidden": [256, 256],
                 **_SCENES}, "learn")
    for envs in (512, 1024, 2048, 4096):
        yield Check("mt10", f"mt10, {envs} envs per task",
                    {"suite": "mt10", "ppo.num_envs": envs, "ppo.rollout_length": 20,
                     "network.hidden": [256, 256], "run.log_every": 1, **_SCENES})
    for suite in SUITES:
        if suite not in ("cartpole10", "lunar_lander20", "mt3", "mt10"):
            yield Check("throughput", f"{suite}, 512 envs per task",
                        {"suite": suite, "ppo.num_envs": 512, "run.log_every": 4})


def _agreement() -> Iterator[Check]:
    """Every algorithm, method and suite once, beside the defaults of the others."""
    first = ("varshare", "cagrad", "dqn", "cartpole10")
    named = {a: {"algorithm": a, "suite": "gymnax:Pendulum-v1" if a == "ddpg" else "cartpole10"}
             for a in ALGORITHMS}
    named |= {m: {"method": m, "suite": "cartpole10"} for m in METHODS}
    named |= {s: {"suite": s} for s in (*SUITES, "gymnax:Pendulum-v1", "mt1:push")
              if s not in ("mt3", "mt10")}  # MJX compiles for minutes on a CPU
    for name, settings in sorted(named.items(), key=lambda x: x[0] not in first):
        yield Check("agreement", name, {**_SMALL, **settings, "metaworld.physics": "mjx"},
                    "agreement", "benchmarks.agreement",
                    tiny={"network.hidden": [8]} if name in first else None)


def main(argv: list[str] | None = None) -> int:
    """Runs the checks; 0 if none failed."""
    args = _parse(argv)
    wanted = [c for c in checks() if c.section in args.only
              and (c.tiny is not None or not args.smoke)]
    deadline, results = time.monotonic() + 60 * args.minutes, []
    with tempfile.TemporaryDirectory() as cache:
        for group, jobs in (([c for c in wanted if not c.alone], _JOBS),
                            ([c for c in wanted if c.alone], 1)):
            with ThreadPoolExecutor(jobs) as pool:
                for result in pool.map(lambda c: _run(args, c, cache, deadline), group):
                    print(_line(result), flush=True)
                    results.append(result)
    write_report(args.out, {"smoke": args.smoke, "checks": results})
    print(_ends(results, args.out))
    return int(any(result["verdict"] == "FAILED" for result in results))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    sections = list(dict.fromkeys(check.section for check in checks()))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, a few checks")
    parser.add_argument("--minutes", type=float, default=10.0,
                        help="after which what is left is skipped (default 10)")
    parser.add_argument("--only", type=lambda s: s.split(","), default=sections,
                        help=f"sections, comma-separated, of {','.join(sections)}")
    parser.add_argument("--out", default=str(ROOT / "runs" / "accelerator.json"),
                        help="JSON file")
    args = parser.parse_args(argv)
    if unknown := set(args.only) - set(sections):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; "
                     f"one of {', '.join(sections)}")
    if not args.smoke and not _has_accelerator():
        parser.error("JAX finds no accelerator here; --smoke runs on a CPU")
    return args


def _has_accelerator() -> bool:
    """Asked in a process of its own, which gives the device back."""
    try:
        return ask("benchmarks.agreement", {"kind": "where"}, timeout=60)["platform"] != "cpu"
    except Failed:
        return False


def _run(args: argparse.Namespace, check: Check, cache: str, deadline: float) -> dict[str, Any]:
    about = {"section": check.section, "name": check.name}
    left = deadline - time.monotonic()
    if left < 0:
        return about | {"verdict": "skipped", "why": f"after {args.minutes:g} minutes"}
    settings = {**check.settings, **((check.tiny or {}) if args.smoke else {})}
    spec = {"kind": check.kind, "settings": settings, "cache": cache, "spawned": time.time(),
            "window": 0.05 if args.smoke else 2.0}
    # Several processes share the device's memory, or one has it all as in training.
    sharing = {} if check.alone else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    started = time.monotonic()
    try:
        answer = ask(check.module, spec, timeout=min(_TIMEOUT, left + 60),
                     environment=sharing | (QUICK if args.smoke and check.alone else {}))
    except Failed as failed:
        return about | {"verdict": "FAILED", "why": str(failed), "printed": failed.printed}
    agrees = answer.get("step_error", 0.0) <= _AGREES  # false for NaN
    return about | answer | {"verdict": "ok" if agrees else "FAILED", "settings": settings,
                             "process_seconds": time.monotonic() - started}


def _line(result: Mapping[str, Any]) -> str:
    """Section, name, verdict, and the figures that such a check has."""
    units = {"step_error": "{:.1e} error of a step", "loss_error": "{:.1e} of the loss",
             "steps_per_second": "{:,.0f} steps/s", "compile_seconds": "{:.1f} s to compile",
             "first_update_seconds": "{:.1f} s to the first update",
             "success": "{:.2f} success", "seconds": "{:.0f} s"}
    figures = [text.format(result[name]) for name, text in units.items() if name in result]
    return (f"{result['section']:<11}{result['name']:<34}{result['verdict']:<8}"
            f"{', '.join(figures) or result.get('why', '')}")


def _ends(results: list[dict[str, Any]], out: str) -> str:
    """How many ended how, what seeds side by side cost, and where all of it is."""
    lines = [f"{sum(r['verdict'] == verdict for r in results)} {verdict}"
             for verdict in ("ok", "FAILED", "skipped")]
    speed = [r["steps_per_second"] for r in results
             if r["section"] == "seeds" and "steps_per_second" in r]
    if len(speed) == 2:
        lines.append(f"16 seeds / 1 seed, steps/s: {speed[1] / speed[0]:.2f}")
    return ", ".join(lines) + f"; {out}"


if __name__ == "__main__":
    sys.exit(main())
