"""Throughput side by side: `python -m benchmarks.throughput`, or `--smoke` for a quick check.

Every measurement is a fresh process. A round measures each case once; rounds run in alternating
order, and each ratio is taken within a round, so that a machine that slows down slows both sides.

Peers need an environment of their own, because they use an older gymnax: a Python with
`gymnax==0.0.9 rejax distrax` and the same JAX as here (`--peer_python`), and a checkout of
purejaxrl (`--purejaxrl`). Without them their rows stay empty.
"""

import argparse
import contextlib
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, COLD, GROUPS, ROWS, WARM, Case, Round
from benchmarks.processes import QUICK, ROOT, ask_or_tell, write_report

_TIMEOUT = 900  # seconds that one process may take


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark; 0 if every measurement ran."""
    args = _parse(argv)
    names, load = _wanted(args), _load()
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(KeyboardInterrupt):
        for index in range(args.rounds):
            order = names if index % 2 == 0 else names[::-1]
            rounds.append(_round(args, index, order, Path(scratch)))
            write_report(args.out, _report(args, names, rounds, load))
    print(_table(_report(args, names, rounds, load)))
    missing = args.rounds * len(names) - sum(map(len, rounds))
    if missing:
        print(f"{missing} measurements failed or were not made", file=sys.stderr)
    return min(missing, 1)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true",
                        help="tiny sizes, few cases, one round, no file")
    parser.add_argument("--rounds", type=int, help="measurements of each case (default 5)")
    parser.add_argument("--window", type=float, help="seconds timed at least (default 2)")
    parser.add_argument("--purejaxrl", metavar="PATH", help="checkout of purejaxrl")
    parser.add_argument("--peer_python", metavar="PATH", help="Python that has the peers")
    parser.add_argument("--out", help="JSON file ('' for none)")
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(GROUPS),
                        help=f"groups, comma-separated, of {','.join(GROUPS)}")
    args = parser.parse_args(argv)
    if unknown := set(args.only) - set(GROUPS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; one of {', '.join(GROUPS)}")
    if args.purejaxrl and not args.peer_python:
        parser.error("--purejaxrl needs --peer_python")
    # Absolute, because the processes start elsewhere; a venv's Python must stay a link.
    args.purejaxrl = args.purejaxrl and os.path.abspath(args.purejaxrl)
    args.peer_python = args.peer_python and os.path.abspath(args.peer_python)
    quick = args.smoke
    args.rounds = args.rounds or (1 if quick else 5)
    args.window = args.window if args.window is not None else (0.05 if quick else 2.0)
    if args.out is None:
        args.out = "" if quick else str(ROOT / "benchmarks" / "results" / "throughput.json")
    return args


def _wanted(args: argparse.Namespace) -> list[str]:
    """Names of the cases that the chosen rows need and the given peers allow."""
    needed = set().union(*(row.cases for row in ROWS if row.group in args.only))
    allowed = {"purejaxrl": bool(args.purejaxrl), "rejax": bool(args.peer_python),
               "rejax_dqn": bool(args.peer_python)}
    absent = [n for n in CASES if n in needed and not allowed.get(CASES[n].kind, True)]
    if absent:
        print(f"skipped for want of --peer_python and --purejaxrl: {', '.join(absent)}")
    return [name for name in CASES if name in needed and name not in absent
            and (CASES[name].in_smoke is not None or not args.smoke)]


def _round(args: argparse.Namespace, index: int, names: list[str], scratch: Path) -> Round:
    """Each case once, one after another; in a smoke test, which times nothing, side by side."""
    def measure(name: str) -> dict[str, Any] | None:
        started = time.monotonic()
        answer = _measure(args, name, scratch / _cache(name, index))
        seconds = time.monotonic() - started
        print(f"round {index + 1}/{args.rounds}  {name:<20}{seconds:6.1f} s", file=sys.stderr)
        return answer

    with ThreadPoolExecutor((os.cpu_count() or 1) if args.smoke else 1) as pool:
        answers = zip(names, pool.map(measure, names), strict=True)
        return {name: answer for name, answer in answers if answer is not None}


def _measure(args: argparse.Namespace, name: str, cache: Path) -> dict[str, Any] | None:
    """What the process of one case answered; None (and its errors shown) if it failed."""
    case = CASES[name]
    spec = {"kind": case.kind, "settings": _settings(case, args.smoke), "window": args.window,
            "cache": str(cache), "path": args.purejaxrl, "spawned": time.time()}
    peer = {"python": args.peer_python, "module": "benchmarks.peers"}
    return ask_or_tell(name, **(peer if case.is_peer else {"module": "benchmarks.worker"}),
                       spec=spec, timeout=_TIMEOUT, environment=QUICK if args.smoke else {})


def _settings(case: Case, smoke: bool) -> dict[str, Any]:
    return {**case.settings, **((case.in_smoke or {}) if smoke else {})}


def _cache(name: str, index: int) -> str:
    """The compile cache of a case in a round: a cold start's is new, a warm one's was filled.

    Odd rounds run backwards: there the warm start comes first and takes that of the round before.
    """
    if name == COLD:
        return f"start-{index}"
    return f"start-{index - index % 2}" if name == WARM else "shared"


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def _report(args: argparse.Namespace, names: list[str], rounds: list[Round],
            load: float) -> dict[str, Any]:
    """Everything measured, raw and summarised, and on what."""
    libraries: dict[str, Any] = {}
    raw = []
    for measured in rounds:
        raw.append({})
        for name, answer in measured.items():
            library = CASES[name].kind if CASES[name].is_peer else "varshare_jax"
            libraries[library] = {k: answer[k] for k in _ABOUT if k in answer}
            raw[-1][name] = {k: v for k, v in answer.items() if k not in _ABOUT}
    cases = {n: {"kind": CASES[n].kind, "settings": _settings(CASES[n], args.smoke)}
             for n in names}
    return {"config": {"smoke": args.smoke, "rounds": args.rounds, "window": args.window,
                       "only": args.only, "cases": cases},
            "machine": _machine() | {"load_before": load}, "libraries": libraries,
            "measurements": {n: m for n in names if (m := _measurement(n, rounds))},
            "ratios": [s for row in ROWS if row.group in args.only
                       and (s := row.summary(rounds))], "rounds": raw}


_ABOUT = ("versions", "device", "shims", "source_sha256")  # the same in every round


def _machine() -> dict[str, Any]:
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.system(),
            "python": platform.python_version()}


def _measurement(name: str, rounds: list[Round]) -> dict[str, float] | None:
    """Median and extremes of a case's steps per second, if it has them."""
    values = [r[name]["steps_per_second"] for r in rounds
              if "steps_per_second" in r.get(name, {})]
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _table(report: dict[str, Any]) -> str:
    lines = [f"{'env steps/s':<44}{'median':>10}{'min':>10}{'max':>10}"]
    for name, m in report["measurements"].items():
        lines.append(f"{name:<44}{m['median']:>10,.0f}{m['min']:>10,.0f}{m['max']:>10,.0f}")
    lines += ["", f"{'judged':<44}{'median':>10}{'min':>10}{'max':>10}  {'target':<9}"]
    for r in report["ratios"]:
        verdict = "" if r["met"] is None or report["config"]["smoke"] else (
            "met" if r["met"] else "MISSED")
        lines.append(f"{r['name']:<44}{r['median']:>10.2f}{r['min']:>10.2f}{r['max']:>10.2f}"
                     f"  {r['target']:<9}{verdict}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
