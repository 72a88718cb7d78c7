"""From run directories to tables, figures and one self-contained page."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from varshare_jax.report.write import Report, write_report

__all__ = ["Report", "write_report"]


def __getattr__(name: str) -> Any:
    """Imports the page's writer when it is first used: Matplotlib, which it draws with, takes a
    second, and whoever reads runs or counts statistics needs none of it.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from varshare_jax.report import write

    return getattr(write, name)
