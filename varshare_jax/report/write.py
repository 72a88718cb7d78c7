"""From run directories to files: the page, the CSV beside it and the picture."""

import contextlib
import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path

from varshare_jax.errors import UserError
from varshare_jax.report import figures, page, tables
from varshare_jax.report.drawing import to_png
from varshare_jax.report.runs import load_runs
from varshare_jax.report.sections import Section, group
from varshare_jax.report.table import to_text


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written, and the first tables as text for a console."""

    page: Path
    csv: Path
    figure: Path | None
    text_table: str


def write_report(run_dirs: Sequence[Path], out: Path, *,
                 figure_png: Path | None = None, focus: str | None = None) -> Report:
    """Writes `out` (.html), the scores as .csv beside it and, if asked, the learning curves.

    `focus` is the label of the run that the others are compared with: see `sections.group`.
    Each file appears whole or not at all. Raises UserError for directories that are no runs
    or cannot be compared, and for files that cannot be written.
    """
    out = _checked(Path(out), "--out", ".html")
    figure_png = figure_png and _checked(Path(figure_png), "--figure_png", ".png")
    sections = group(load_runs([Path(run_dir) for run_dir in run_dirs]), focus)
    scores = out.with_suffix(".csv")
    _replace(out, page.render(sections).encode())
    _replace(scores, _csv(sections).encode())
    if figure_png:
        _replace(figure_png, to_png(figures.learning_curves(sections)))
    text = [f"{section.suite}\n\n{to_text(tables.aggregates(section))}\n\n"
            f"{to_text(tables.costs(section))}\n" for section in sections]
    return Report(out, scores, figure_png, "\n".join(text))


def _csv(sections: Sequence[Section]) -> str:
    """Final scores as evaluated: NaN stays NaN, a suite without success leaves it empty."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["suite", "method", "run", "seed", "task", "return", "success"])
    for section in sections:
        for run in (entry.run for entry in section.entries if entry.run.final):
            for s, seed in enumerate(run.seeds):
                for m, task in enumerate(section.task_names):
                    success = "" if run.final.success is None else run.final.success[s, m]
                    names = map(_inert, (run.suite, run.method, run.path.resolve().name))
                    writer.writerow([*names, seed, _inert(task), run.final.returns[s, m], success])
    return buffer.getvalue()


def _inert(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def _checked(path: Path, flag: str, suffix: str) -> Path:
    if path.suffix != suffix:
        raise UserError(f"{flag}={path}: must be a file name that ends in {suffix}")
    if path.is_dir():
        raise UserError(f"{flag}={path}: is a directory")
    return path


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write '{path}': {error.strerror}") from error
