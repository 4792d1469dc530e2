"""Parser of forms (`multipart/form-data`, RFC 7578) that reads only the files in them."""

from email.message import Message
from email.parser import HeaderParser

MOST = 256  # parts of a form


def split_parts(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """Return the name and the content of each file in a form.

    Raises:
        ValueError: the body is not the form that its Content-Type promises.
    """
    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_boundary()
    if not boundary:
        raise ValueError("multipart/form-data needs a boundary")
    # Each boundary begins a line. The first may begin the body, hence the line break before it.
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), MOST)
    if len(pieces) > MOST or len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise ValueError("the form is cut short, or has too many parts")
    found = []
    for number, piece in enumerate(pieces[1:-1]):
        headers, empty, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not empty or len(headers) > 4096:
            raise ValueError(f"part {number} has no head")
        part = HeaderParser().parsestr(headers.decode(errors="replace"))
        found.append((part.get_filename() or f"part {number}", content))
    return found
