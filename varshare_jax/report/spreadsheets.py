"""The report's numbers as CSV: final scores, and those during training in long form."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from varshare_jax.report.runs import Run
from varshare_jax.report.sections import RETURN, Section, folders

_RUN = ("suite", "method", "run")


def scores(sections: Sequence[Section]) -> str:
    """Final scores as evaluated: NaN stays NaN, a suite without success leaves it empty."""
    return _csv((*_RUN, "seed", "task", "return", "success"), _scores(sections))


def curves(sections: Sequence[Section]) -> str:
    """Evaluations during training, a row per run, seed, task, evaluation and metric.

    `env_steps` are those of one seed, summed over its tasks; `wall_seconds` those of all seeds.
    """
    return _csv((*_RUN, "seed", "task", "env_steps", "wall_seconds", "metric", "value"),
                _curves(sections))


def _scores(sections: Sequence[Section]) -> Iterator[tuple[Any, ...]]:
    for section in sections:
        for run, folder in _runs(section):
            if not (final := run.final):
                continue
            success = final.success
            for place, names in _places(section, run, folder):
                yield (*names, final.returns[place],
                       "" if success is None else success[place])


def _curves(sections: Sequence[Section]) -> Iterator[tuple[Any, ...]]:
    for section in sections:
        for run, folder in _runs(section):
            for evaluation in run.evaluations:
                when = evaluation.env_steps, evaluation.wall_seconds
                known = {RETURN: evaluation.returns, "success": evaluation.success}
                for metric, values in known.items():
                    if values is not None:
                        for place, names in _places(section, run, folder):
                            yield (*names, *when, metric, values[place])


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def _runs(section: Section) -> Iterator[tuple[Run, str]]:
    """Runs, and under what name in the column `run`: no two of a suite have the same."""
    runs = [entry.run for entry in section.entries]
    return zip(runs, folders(runs), strict=True)


def _places(section: Section, run: Run,
            folder: str) -> Iterator[tuple[tuple[int, int], tuple[Any, ...]]]:
    """Every index into [S, M], and what names it."""
    names = tuple(map(_inert, (run.suite, run.method, folder)))
    for s, seed in enumerate(run.seeds):
        for m, task in enumerate(section.task_names):
            yield (s, m), (*names, seed, _inert(task))


def _inert(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text
