"""A mistake that the user can mend: shown as one message, without a traceback."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# Control characters but tab and line break, separators of lines, and marks that turn text around:
# in a file name they would move the cursor, set the window's title, or hide what stands before.
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ud800-\udfff]"
)


class UserError(Exception):
    """What was given, what is allowed, and the command to type."""


@contextmanager
def settings_of(group: str) -> Iterator[None]:
    """What is built inside may refuse its settings: then the user hears which `group` to look at.

    Lightning's refusal is known by its name, for importing it here would load torch.
    """
    try:
        yield
    except Exception as error:
        refused = isinstance(error, TypeError | ValueError | RuntimeError)
        if not refused and type(error).__name__ != "MisconfigurationException":
            raise
        raise UserError(f"{group}: {one_line(error)}") from error


def printable(text: str) -> str:
    """For a terminal or a log: what cannot be seen becomes its escape, as `\\x1b`."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Formatter(logging.Formatter):
    """Of all log lines, in the terminal and in files: see `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        """As its base does it."""
        return printable(super().format(record))


def one_line(error: BaseException) -> str:
    """What an exception says, or else what it is."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, where stories follow, or else what it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def why_unreachable(address: str, seconds: float = 5) -> str:
    """The reason why no HTTP server answers at an address; an empty text where one does."""
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return ""
    except urllib.error.HTTPError:
        return ""  # the server answers, whatever it thinks of this page
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", None) or one_line(error))


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` if one of `allowed` is spelt like `given`, else a full stop."""
    close = get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."


def listing(names: Iterable[object], most: int = 10, separator: str = ", ") -> str:
    """Name a few of many: `a, b, c, and 5 more`."""
    texts = [printable(str(name)).replace("\n", "\\n") for name in names]
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return separator.join(texts[:most] + more)
