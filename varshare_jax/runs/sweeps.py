"""A finished sweep as ordinary runs: one folder per configuration, as if it had trained alone.

A sweep trains C configurations × K seeds as the S members of one program, configuration by
configuration, and its files hold all S. Split, every configuration can be reported, evaluated
and compared like any other run; only the times remain those of the whole program.
"""

import shutil
from pathlib import Path
from typing import Any

import jax

from varshare_jax.algorithms.base import Problem
from varshare_jax.runs import checkpoint, task_parameters
from varshare_jax.runs.files import read_rows, write_json, write_rows
from varshare_jax.runs.folder import learned
from varshare_jax.settings import to_dict
from varshare_jax.types import TrainState


def split(problem: Problem, state: TrainState, update: int, summary: dict[str, Any]) -> None:
    """Writes the folder of every configuration of a sweep whose training is complete.

    `state` [S, ...] is the last one and `summary` that of the whole; both are cut by members.
    """
    config = problem.config
    source = Path(config.run_dir)
    logs = {name: read_rows(source / name) for name in ("train.jsonl", "eval.jsonl")}
    for index, part in enumerate(config.configurations()):
        members = slice(index * config.num_seeds, (index + 1) * config.num_seeds)
        folder = Path(part.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "environment.json", folder / "environment.json")
        for name, rows in logs.items():
            write_rows(folder / name, [_cut(row, members) for row in rows])
        diverged, skipped = (_within(summary[name], members) for name in ("diverged", "skipped"))
        note = {"wall_seconds": summary["wall_seconds"], "diverged": diverged,
                "skipped": skipped, "settings": learned(part)}
        part_state = jax.tree.map(lambda leaf, rows=members: leaf[rows], state)
        checkpoint.save(folder / "checkpoints", update, part_state, 1, note)
        task_parameters.write(folder, problem.network, part_state.agent.variables)
        write_json(folder / "config.json", to_dict(part))
        write_json(folder / "summary.json", summary | {
            "eval": _cut(summary["eval"], members), "diverged": diverged, "skipped": skipped})


def _cut(row: dict[str, Any], members: slice) -> dict[str, Any]:
    """A logged row with the members [S][M] of every score and metric cut out."""
    cut = {name: value[members] for name, value in row.items() if isinstance(value, list)}
    inner = {name: _cut(row[name], members)
             for name in ("metrics", "every_update", "left_out") if name in row}
    return row | cut | inner


def _within(entries: list[dict[str, Any]], members: slice) -> list[dict[str, Any]]:
    return [entry | {"member": entry["member"] - members.start} for entry in entries
            if members.start <= entry["member"] < members.stop]
