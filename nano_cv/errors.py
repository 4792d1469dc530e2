"""Errors of the user, which are shown as a message without a traceback."""

import errno
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# Control characters except tab and line break, line separators, and marks that reverse text: in a
# file name they could move the cursor, set the window's title, or hide the text before them.
INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ud800-\udfff]"
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, file too large


class UserError(Exception):
    """Mistake of the user; the message says what was given, what is allowed, what to type."""


@contextmanager
def settings_of(group: str) -> Iterator[None]:
    """Turn errors raised inside the block into a `UserError` that names the option group.

    Lightning's exception is recognised by its name, because importing it would load torch.
    """
    try:
        yield
    except Exception as error:
        refused = isinstance(error, TypeError | ValueError | RuntimeError)
        if not refused and type(error).__name__ != "MisconfigurationException":
            raise
        raise UserError(f"{group}: {one_line(error)}") from error


def printable(text: str) -> str:
    """Replace invisible characters by their escapes, such as `\\x1b`."""
    return INVISIBLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """Print text. That nobody reads it any more, as in `| head`, is no error."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Formatter(logging.Formatter):
    """Formatter of all log lines, in the terminal and in files; see `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, with escapes for invisible characters."""
        return printable(super().format(record))


def one_line(error: BaseException) -> str:
    """Return the message of an exception in one line, or its class name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def why_unreachable(address: str, seconds: float = 5) -> str:
    """Return the reason why no HTTP server answers at a URL; empty if a server answers."""
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return ""
    except urllib.error.HTTPError:
        return ""  # the server answers, even if with an error
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", None) or one_line(error))


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` if `allowed` has a name spelt like `given`, else a full stop."""
    close = get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."


def listing(names: Iterable[object], most: int = 10, separator: str = ", ") -> str:
    """List the first names and count the others: `a, b, c, and 5 more`."""
    texts = [printable(str(name)).replace("\n", "\\n") for name in names]
    rest = f"{len(texts) - most} more"
    more = [rest if separator == " or " else f"and {rest}"] if len(texts) > most else []
    return separator.join(texts[:most] + more)
