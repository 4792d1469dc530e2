"""Files from the network, whole and checked or not at all, and what to do where there is none.

`requests` and not urllib, for it is shorter: it follows redirects to http and https only, knows
proxies and certificates, and says when a body ends early. It comes with DVC and MLflow.
"""

import gzip
import hashlib
import logging
import lzma
import os
import tarfile
import time
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

from nano_cv.data.progress import bytes_of, reading
from nano_cv.errors import UserError, one_line

log = logging.getLogger(__name__)
CHUNK = 2**16  # bytes; what a broken connection may lose
TIMEOUT = 30.0  # seconds without a byte
TRIES = 4  # in a row that brought nothing
PAUSE = 1.0  # seconds before the second try, and twice as long before each one after it
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)  # archives cut short, or junk
KINDS = {32: "md5", 64: "sha256"}  # by the letters of a digest


def obtain(
    url: str, digest: str, folder: Path, source: str | Path | None = None, size: int | None = None
) -> Path:
    """The file that `url` ends with: in `source` if that is given, else in `folder`, fetched.

    Raises:
        UserError: see `fetch`; or not in `source`, or another file of that name there.
    """
    if source is None:
        return fetch(url, folder / name_of(url), digest, size)
    file = lying_in(source, url)
    _check_by_hand(file, digest)
    return file


def name_of(url: str) -> str:
    """The name of the file that a URL ends with."""
    return urlsplit(url).path.rpartition("/")[2]


def lying_in(source: str | Path, url: str) -> Path:
    """The file of that name in a folder of the user's."""
    file = Path(source).expanduser() / name_of(url)
    if not file.exists():
        raise UserError(f"{file}: not there; data.source names the folder with the file of {url}")
    return file


def fetch(url: str, file: Path, digest: str, size: int | None = None) -> Path:
    """Download `url` to `file`, unless it is there; it appears under its name when it is right.

    What a broken download has brought stays in `.<name>.part`, and the next one goes on there.

    Args:
        url: http or https.
        file: where to.
        digest: SHA-256 or MD5 in hexadecimal digits.
        size: in bytes, for the message to those who have to bring the file by hand.

    Raises:
        UserError: not reachable, refused, another content than the digest says, the disk full;
            the message says what to do.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: only http:// and https:// are fetched")
    if file.exists():
        _check_by_hand(file, digest)
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part, found = file.with_name(f".{file.name}.part"), ""
    sizes = f"{size:,} bytes, " if size else ""
    by_hand = (
        f"Without a network: put the file at {file} ({sizes}{KINDS[len(digest)]} {digest}) and "
        "start again, or name the folder where it lies: data.source=FOLDER"
    )
    log.info("Fetching %s to %s", url, file)
    for _ in range(2):
        in_pieces = _download(url, part, by_hand)
        found = digest_of(part, digest)
        if found == digest:
            os.replace(part, file)
            return file
        part.unlink()
        if not in_pieces:
            break  # else the server may have replaced its file between two pieces: once more
    kind = KINDS[len(digest)]
    raise UserError(
        f"{url}: has {kind} {found}, and {digest} is needed; it was removed. The server gives "
        f"another file than it did. {by_hand}"
    )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive; within `make_once`, whole or not at all.

    Raises:
        UserError: damaged, or with files that would lie outside of `folder`.
    """
    log.info("Unpacking %s", archive)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as content:
                for name in content.namelist():
                    if not (folder / name).resolve().is_relative_to(folder.resolve()):
                        raise UserError(f"{archive}: '{name}' would lie outside of {folder}")
                content.extractall(folder)
        else:
            with reading(archive, "Unpacking") as packed, tarfile.open(fileobj=packed) as content:
                content.extractall(folder, filter="data")
    except (*DAMAGED, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: cannot be unpacked: {one_line(error)}") from error


def digest_of(file: Path, like: str) -> str:
    """The digest of a file, of the kind that `like` is."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, KINDS[len(like)]).hexdigest()


def gunzip(file: Path) -> bytes:
    """What a `.gz` unpacks to.

    Raises:
        UserError: it cannot be unpacked.
    """
    try:
        return gzip.decompress(file.read_bytes())
    except DAMAGED as error:
        raise UserError(f"{file}: cannot be unpacked: {one_line(error)}") from error


def _check_by_hand(file: Path, digest: str) -> None:
    found = digest_of(file, digest)
    if found != digest:
        raise UserError(
            f"{file}: has {KINDS[len(digest)]} {found}, and {digest} is needed: damaged, or "
            "another version; replace it"
        )


def _download(url: str, part: Path, by_hand: str) -> bool:
    """Bring `part` to its end; whether that took more than one piece."""
    import requests

    in_pieces, failures, furthest = False, 0, 0
    while True:
        start = part.stat().st_size if part.exists() else 0
        in_pieces |= start > 0
        try:
            _receive(url, part, start)
            return in_pieces
        except requests.HTTPError as error:
            answer = str(error).partition(" for url")[0]  # 404 Client Error: Not Found
            raise UserError(f"{url}: the server answers {answer}. {by_hand}") from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            now = part.stat().st_size if part.exists() else 0
            failures = 1 if now > furthest else failures + 1
            furthest = max(now, furthest)
            if failures == TRIES:
                kept = f"; {now:,} bytes are kept, and the next start goes on there" if now else ""
                raise UserError(
                    f"{url}: cannot be reached, or the connection breaks{kept}. {by_hand}"
                ) from error
            time.sleep(PAUSE * 2 ** (failures - 1))
        except requests.RequestException as error:
            raise UserError(f"{url}: {one_line(error)}. {by_hand}") from error
        except OSError as error:
            error.filename = f"{part} (kept, and the next start goes on there)"
            raise


def _receive(url: str, part: Path, start: int) -> None:
    """Append what is missing of `part` from byte `start` on, or write it anew."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # else some servers unpack a .tgz on the way
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing comes after `start`: the digest will say whether that is the end
        response.raise_for_status()
        given = response.headers.get("Content-Range", "")
        goes_on = response.status_code == 206 and given.startswith(f"bytes {start}-")
        if response.status_code == 206 and not goes_on:
            part.unlink()
            raise requests.ConnectionError(f"another range than asked for: {given}")
        length = response.headers.get("Content-Length", "")
        done = start if goes_on else 0
        total = done + int(length) if length.isdecimal() else None
        with (
            part.open("ab" if goes_on else "wb") as output,
            bytes_of(total, done, part.stem[1:]) as count,
        ):
            for chunk in response.iter_content(CHUNK):
                output.write(chunk)
                count(len(chunk))
