"""From run directories to files: the page, the CSV files beside it and the picture."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from varshare_jax.errors import UserError
from varshare_jax.report import figures, page, spreadsheets, tables
from varshare_jax.report.drawing import to_png
from varshare_jax.report.joining import join
from varshare_jax.report.runs import load_runs
from varshare_jax.report.sections import group
from varshare_jax.report.table import to_text


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written, and the first tables as text for a console."""

    page: Path
    csv: Path
    curves: Path
    figure: Path | None
    text_table: str


def write_report(run_dirs: Sequence[Path], out: Path, *,
                 figure_png: Path | None = None, focus: str | None = None) -> Report:
    """Writes `out` (.html), two CSV files beside it and, if asked, the learning curves.

    `report.html` has the final scores in `report.csv` and those during training in
    `report_curves.csv`.
    `focus` is the label of the run that the others are compared with: see `sections.group`.
    Each file appears whole or not at all. Raises UserError for directories that are no runs
    or cannot be compared, and for files that cannot be written.
    """
    out = _checked(Path(out), "--out", ".html")
    figure_png = figure_png and _checked(Path(figure_png), "--figure_png", ".png")
    sections = group(join(load_runs([Path(run_dir) for run_dir in run_dirs])), focus)
    scores, curves = out.with_suffix(".csv"), out.with_name(f"{out.stem}_curves.csv")
    _replace(out, page.render(sections).encode())
    _replace(scores, spreadsheets.scores(sections).encode())
    _replace(curves, spreadsheets.curves(sections).encode())
    if figure_png:
        _replace(figure_png, to_png(figures.learning_curves(sections)))
    text = [f"{section.suite}\n\n{to_text(tables.aggregates(section))}\n\n"
            f"{to_text(tables.costs(section))}\n" for section in sections]
    return Report(out, scores, curves, figure_png, "\n".join(text))


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
