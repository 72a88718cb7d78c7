"""From run directories to tables, figures and one self-contained page."""

from varshare_jax.report.write import Report, write_report

__all__ = ["Report", "write_report"]
