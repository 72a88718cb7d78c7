"""Command lines; their flags are those of the config, which installed packages have a part in."""

import sys

from varshare_jax.errors import UserError

try:
    import varshare_jax.config  # noqa: F401  before any command can, to say in one line what fails
except UserError as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
