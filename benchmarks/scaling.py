"""Seconds and memory of an update against seeds, tasks, environments and width.

    python -m benchmarks.scaling                    # some minutes on two cores
    python -m benchmarks.scaling --only=seeds,width --rounds=5

Each point is a process, measured once a round; medians count. One size changes, the others stay
those of the base. The figure shows both as multiples of the base, beside what is proportional.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from benchmarks.processes import QUICK, ROOT, ask_or_tell, write_report

BASE = {"seeds": 1, "tasks": 16, "envs": 16, "width": 64}
SIZES = {"seeds": (1, 4, 16, 64, 256), "tasks": (2, 4, 16, 64, 256),
         "envs": (4, 16, 64, 256, 1024), "width": (16, 64, 256, 1024)}
_TIMEOUT = 900  # seconds that one process may take
_FIGURES = {"seconds_per_update": "seconds of an update", "peak_bytes": "memory of the process"}


def main(argv: list[str] | None = None) -> int:
    """Measures and draws; 0 if every point was measured."""
    args = _parse(argv)
    points = list({tuple((BASE | {name: size}).items()): None
                   for name in args.only for size in (BASE[name], *args.sizes[name])})
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(args.rounds):
            rounds.append({str(dict(point)): _measure(args, dict(point), cache)
                           for point in points})
    found = {name: _curve(args, rounds, name) for name in args.only}
    write_report(args.out, {"base": BASE, "method": args.method, "curves": found,
                            "rounds": rounds})
    if args.figure:
        _draw(Path(args.figure), args.method, found)
    print(_table(found))
    return int(any(None in measured.values() for measured in rounds))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(SIZES),
                        help=f"sizes, comma-separated, of {','.join(SIZES)}")
    parser.add_argument("--method", default="varshare", help="what is trained")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each point")
    parser.add_argument("--smoke", action="store_true", help="two tiny points, no files")
    parser.add_argument("--out", help="JSON file ('' for none)")
    parser.add_argument("--figure", help="picture ('' for none)")
    args = parser.parse_args(argv)
    if unknown := set(args.only) - set(SIZES):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; one of {', '.join(SIZES)}")
    args.sizes, args.window = SIZES, 2.0
    results = "", ""
    if args.smoke:
        args.only, args.sizes, args.rounds, args.window = ["seeds"], {"seeds": (1, 2)}, 1, 0.05
    else:
        results = (str(ROOT / "benchmarks" / "results" / "scaling.json"),
                   str(ROOT / "docs" / "images" / "scaling.png"))
    args.out = results[0] if args.out is None else args.out
    args.figure = results[1] if args.figure is None else args.figure
    return args


def _measure(args: argparse.Namespace, point: dict[str, int], cache: str) -> dict[str, Any] | None:
    """What the process of a point answered; None, and the reason shown, if it failed."""
    settings = {"suite": f"cartpole_family:tasks={point['tasks']},spread=0.5,seed=1",
                "method": args.method, "num_seeds": point["seeds"],
                "ppo.num_envs": point["envs"], "network.hidden": [point["width"]] * 2,
                "run.log_every": 1}
    if args.smoke:
        settings |= {"ppo.rollout_length": 4, "ppo.num_envs": 2, "network.hidden": [8]}
    spec = {"kind": "train", "settings": settings, "cache": cache, "window": args.window}
    answer = ask_or_tell(str(point), "benchmarks.worker", spec, timeout=_TIMEOUT,
                         environment=QUICK if args.smoke else {})
    if answer:
        print(f"{point}  {answer['seconds_per_update']:.3f} s", file=sys.stderr)
    return answer


def _curve(args: argparse.Namespace, rounds: list[dict[str, Any]],
           name: str) -> dict[int, dict[str, float]]:
    """A size -> medians over the rounds in which it was measured."""
    curve = {}
    for size in sorted({BASE[name], *args.sizes[name]}):
        answers = [a for r in rounds if (a := r[str(BASE | {name: size})])]
        if answers:
            curve[size] = {figure: statistics.median(a[figure] for a in answers)
                           for figure in _FIGURES}
    return curve


def _draw(path: Path, method: str, found: dict[str, Any]) -> None:
    """Both figures as multiples of the base, one line for each size that was changed."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (key, title) in zip(axes, _FIGURES.items(), strict=True):
        for name, curve in found.items():
            if BASE[name] in curve:
                base = curve[BASE[name]][key]
                axis.loglog([size / BASE[name] for size in curve],
                            [point[key] / base for point in curve.values()], "o-", label=name)
        axis.axline((1, 1), (10, 10), color="0.7", linestyle="--", label="proportional")
        axis.set(title=title, xlabel="size, in multiples of the base")
    axes[0].set_ylabel("multiples of the base")
    axes[0].legend(frameon=False)
    base = ", ".join(f"{size} {name}" for name, size in BASE.items())
    figure.suptitle(f"{method}, base: {base}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _table(found: dict[str, dict[int, dict[str, float]]]) -> str:
    lines = [f"{'':<10}{'':>6}{'s / update':>12}{'MiB':>10}"]
    lines += [f"{name:<10}{size:>6}{point['seconds_per_update']:>12.4f}"
              f"{point['peak_bytes'] / 2**20:>10,.0f}"
              for name, curve in found.items() for size, point in curve.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
