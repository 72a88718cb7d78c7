"""`varshare-report RUN_DIR... --out report.html`: tables, curves and one page from runs."""

from pathlib import Path

from absl import flags

from varshare_jax.cli import _app
from varshare_jax.errors import printable

_OUT = flags.DEFINE_string("out", "report.html",
                          "page to write; report.csv and report_curves.csv go beside it")
_FIGURE_PNG = flags.DEFINE_string("figure_png", None, "also write the learning curves as PNG")
_FOCUS = flags.DEFINE_string(
    "focus", None, "run that the others are compared with; default: the first of varshare")


def _run(argv: list[str]) -> None:
    from varshare_jax.report import write_report  # it imports Matplotlib

    figure = Path(_FIGURE_PNG.value) if _FIGURE_PNG.value else None
    report = write_report([Path(name) for name in argv[1:]], Path(_OUT.value), figure_png=figure,
                          focus=_FOCUS.value)
    print(printable(report.text_table))
    for path in (report.page, report.csv, report.curves, report.figure):
        if path:
            print(path)


def main() -> None:
    """Entry point of the console script; flags may follow the directories."""
    flags.FLAGS.set_gnu_getopt(True)
    _app.run(_run)


if __name__ == "__main__":
    main()
