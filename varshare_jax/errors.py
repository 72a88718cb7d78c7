"""Errors meant for people: one line that names the flag, the value and what is allowed."""

import difflib
import unicodedata
from collections.abc import Iterable

_MANY = 25  # names that still fit a line


class UserError(ValueError):
    """Something the user can mend; command lines print it as one line and exit with 2."""


def printable(text: str) -> str:
    """Text for a terminal: what would steer it (escapes, returns) is shown as its code."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c)[0] == "C" and c not in "\n\t" else c
                   for c in text)


def unknown(what: str, value: str, allowed: Iterable[str]) -> UserError:
    """Error for `value` not being among `allowed`, with the nearest match if one is near.

    Where many are allowed it stands for them all.
    """
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(value), allowed, n=1)
    if near and len(allowed) > _MANY:
        return UserError(f"{what}={value}: unknown; did you mean '{near[0]}'?")
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return UserError(f"{what}={value}: unknown; allowed: {', '.join(allowed)}{hint}")
