"""Whether a package that a suite stands on is installed."""

import importlib.metadata

from varshare_jax.errors import UserError


def version(package: str, need: str, install: str) -> str:
    """The installed version of `package`; raises UserError where there is none.

    `need` says who needs which version, `install` the command that brings it.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{need}, which is not installed: {install}") from None
