"""A mistake that the user can mend: shown as one message, without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What was given, what is allowed, and the command to type."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` if one of `allowed` is spelt like `given`, else nothing."""
    close = get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def listing(names: Iterable[str], most: int = 10, separator: str = ", ") -> str:
    """Name a few of many: `a, b, c, and 5 more`."""
    names = [str(name) for name in names]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return separator.join(names[:most] + more)
