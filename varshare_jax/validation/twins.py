"""Whether equal tasks find equal answers: runs of `cartpole_conflict`, where every task has a twin.

    python -m varshare_jax.validation.twins runs/conflict/varshare runs/conflict/l2_soft

Two tasks are twins, the same physics with the force reversed (mirrored), another physics with the
same direction (allied) or another with the opposite one (opposed). For each kind of pair: mean
cosine of the two tasks' own parameters, mean difference of their nats over the mean of all tasks,
and mean difference of their returns. Intervals resample seeds.
"""

from pathlib import Path

import numpy as np
from absl import app

from varshare_jax.report import statistics
from varshare_jax.report.runs import Run, load_run

KINDS = "twins", "mirrored", "allied", "opposed"


def kinds_of_pairs(task_names: tuple[str, ...]) -> dict[str, list[tuple[int, int]]]:
    """Pairs (i, j), i < j, of tasks by their kind."""
    def parts(name: str) -> tuple[str, bool]:
        physics = name.rpartition("_")[0]
        return physics.removesuffix("_reversed"), physics.endswith("_reversed")

    pairs: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    for j, second in enumerate(map(parts, task_names)):
        for i, first in enumerate(map(parts, task_names[:j])):
            same = first[0] == second[0], first[1] == second[1]
            kind = {(True, True): "twins", (True, False): "mirrored", (False, True): "allied"}
            pairs[kind.get(same, "opposed")].append((i, j))
    return pairs


def compare(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Measures by name, each with its value per seed [S] for every kind of pair."""
    assert run.final  # the runs that `main` made are finished
    assert run.task_names
    returns = run.final.returns
    gaps = {"difference of returns": np.abs(returns[:, :, None] - returns[:, None, :])}
    if run.similarity is not None:
        gaps["cosine of residuals"] = run.similarity
    if "kl" in run.last_metrics:
        nats = run.last_metrics["kl"]
        apart = np.abs(nats[:, :, None] - nats[:, None, :])
        gaps["difference of nats"] = apart / nats.mean(1)[:, None, None]
    pairs = kinds_of_pairs(run.task_names)
    return {name: {kind: gap[:, *np.transpose(pairs[kind])].mean(1) for kind in KINDS}
            for name, gap in gaps.items()}


def _main(argv: list[str]) -> None:
    for path in map(Path, argv[1:]):
        print(f"\n{path.name:<24}" + "".join(f"{kind:>26}" for kind in KINDS))
        for name, values in compare(load_run(path)).items():
            cells = []
            for seeds in values.values():
                low, high = statistics.bootstrap_interval(
                    seeds[:, None], statistics.mean, rng=np.random.default_rng(0))
                cells.append(f"{seeds.mean():.3f} [{low:.3f}, {high:.3f}]")
            print(f"{name:<24}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    app.run(_main)
