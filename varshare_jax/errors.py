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

    Where many are allowed the nearest stand for them all.
    """
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(value), allowed, n=1) or _without_section(value, allowed)
    meant = "' or '".join(near)
    hint = f"; did you mean '{meant}'?" if near else ""
    if len(allowed) <= _MANY:
        return UserError(f"{what}={value}: unknown; allowed: {', '.join(allowed)}{hint}")
    if not near:
        near = difflib.get_close_matches(str(value), allowed, n=3, cutoff=0.0)
        hint = f"; the nearest of {len(allowed)}: {', '.join(near)}"
    return UserError(f"{what}={value}: unknown{hint}")


def _without_section(value: str, allowed: list[str]) -> list[str]:
    """Up to three dotted names that end in `value` or nearly so."""
    last = [name.rpartition(".")[2] for name in allowed if "." in name]
    near = difflib.get_close_matches(str(value).rpartition(".")[2], last, n=1)
    return [name for name in allowed if near and name.rpartition(".")[2] == near[0]][:3]
