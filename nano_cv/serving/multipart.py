"""Parser of forms (`multipart/form-data`, RFC 7578) that holds only files."""

import re
from urllib.parse import unquote

MAX_FILES = 64  # files in a form
# Python's parser of mail takes a second for a header of 30 kB, so regular expressions do it.
BOUNDARY = re.compile(r'; *boundary=("[^"]{1,70}"|[^\s;"]{1,70})', re.IGNORECASE)
NAME = re.compile(rb'; *filename(\*=utf-8\'[^\']*\'|=)("[^"\r\n]*"|[^\s;"]*)', re.IGNORECASE)


def split_parts(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """Return the name and the content of each file in a form.

    Raises:
        ValueError: not the form that its Content-Type promises, too many parts, or no file in one.
    """
    boundary = BOUNDARY.search(content_type[:300])
    if not boundary:
        raise ValueError("multipart/form-data needs a boundary")
    # Each boundary begins a line. The first may begin the body, hence the line break before it.
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary[1].strip('"').encode(), MAX_FILES + 2)
    if not 3 <= len(pieces) <= MAX_FILES + 2 or not pieces[-1].startswith(b"--"):
        raise ValueError(f"the form is cut short, or has more than {MAX_FILES} parts")
    files = []
    for number, piece in enumerate(pieces[1:-1], start=1):
        headers, empty, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not empty or len(headers) > 4096:
            raise ValueError(f"part {number} has no head")
        if not (name := NAME.search(headers)):
            advice = "files are sent by curl -F file=@FILE, settings in the URL, as in ?top=3"
            raise ValueError(f"part {number} of the form has no file name; {advice}")
        text = name[2].strip(b'"').decode(errors="replace")
        files.append((text.replace("%22", '"') if name[1] == b"=" else unquote(text), content))
    return files
