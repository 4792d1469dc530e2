"""Downloads and unpacks files, checked by digest; without a network, says how to bring them.

`requests` and not urllib, because it needs less code here: it follows redirects to http and https
only, handles proxies and certificates, and reports truncated bodies. DVC and MLflow install it.
"""

import gzip
import hashlib
import logging
import lzma
import os
import tarfile
import time
import zlib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from nano_cv.data.progress import bytes_of, track
from nano_cv.errors import UserError, one_line

log = logging.getLogger(__name__)
CHUNK = 2**16  # bytes; the most that a broken connection loses
TIMEOUT = 30.0  # seconds without a byte
TRIES = 4  # give up after so many tries in a row that brought no bytes
PAUSE = 1.0  # seconds before the second try; doubled before each further try
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)  # archives cut short, or junk


class Archive(NamedTuple):
    """File to download for a set."""

    url: str  # http or https
    digest: str  # MD5 or SHA-256, in hexadecimal digits
    size: int | None = None  # for the message that asks a person to bring the file by hand

    @property
    def name(self) -> str:
        """File name at the end of the URL."""
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def kind(self) -> str:
        """Kind of the digest, `md5` or `sha256`."""
        return {32: "md5", 64: "sha256"}[len(self.digest)]

    def fault_of(self, file: Path) -> str:
        """Return what is wrong with the digest of a file; empty if nothing is."""
        with file.open("rb") as content:
            actual = hashlib.file_digest(content, self.kind).hexdigest()
        same = actual == self.digest
        return "" if same else f"has {self.kind} {actual}, and {self.digest} is needed"


def obtain(archive: Archive, folder: Path, source: str | Path | None = None) -> Path:
    """Return the file, found in `source` if given, or in `folder`, or else fetched to `folder`.

    Raises:
        UserError: see `fetch`; or the file is missing from `source`, or is another file.
    """
    file = (folder if source is None else Path(source).expanduser()) / archive.name
    if file.exists():
        if fault := archive.fault_of(file):
            raise UserError(f"{file}: {fault}: damaged, or another version; replace it")
        return file
    if source is not None:
        raise UserError(
            f"{file}: not there; data.source names the folder with the file of {archive.url}"
        )
    return fetch(archive, file)


def fetch(archive: Archive, file: Path) -> Path:
    """Download an archive to `file`, which appears only once its digest is right.

    The bytes of a broken download stay in `.<name>.part`, and the next download continues there.

    Raises:
        UserError: the server cannot be reached or refuses, or the digest is wrong.
        OSError: the disk is full; the bytes so far are kept.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    sizes = f"{archive.size:,} bytes, " if archive.size else ""
    by_hand = (
        f"Without a network: put the file at {file} ({sizes}{archive.kind} {archive.digest}) and "
        "start again, or name the folder where it lies: data.source=FOLDER"
    )
    log.info("Fetching %s to %s", archive.url, file)
    _download(archive.url, part, by_hand)
    if fault := archive.fault_of(part):
        part.unlink()
        raise UserError(
            f"{archive.url}: the download {fault}; it was removed. If it went on with the part of "
            f"an earlier start, start again; else the server has another file now. {by_hand}"
        )
    os.replace(part, file)
    return file


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive; inside `make_once`, so that a failure leaves nothing behind.

    Raises:
        UserError: the archive is damaged, or has files that would lie outside of `folder`.
    """
    log.info("Unpacking %s", archive)
    try:
        with tarfile.open(archive) as content:
            members = track(content, None, f"Unpacking {archive.name}")
            content.extractall(folder, members, filter="data")
    except (*DAMAGED, tarfile.TarError) as error:
        raise UserError(f"{archive}: cannot be unpacked: {one_line(error)}") from error


def gunzip(file: Path) -> bytes:
    """Return the unpacked content of a `.gz` file; raises `UserError` if it is damaged."""
    try:
        return gzip.decompress(file.read_bytes())
    except DAMAGED as error:
        raise UserError(f"{file}: cannot be unpacked: {one_line(error)}") from error


def _download(url: str, part: Path, by_hand: str) -> None:
    """Download the rest of `part`, with further tries after a break."""
    import requests

    failures, furthest = 0, 0
    while True:
        start = part.stat().st_size if part.exists() else 0
        try:
            _receive(url, part, start)
            return
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            now = part.stat().st_size if part.exists() else 0
            failures = 1 if now > max(start, furthest) else failures + 1
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
    """Append the bytes from `start` on to `part`, or write all bytes if the server sends all."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # else some servers unpack a .tgz on the way
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # no bytes after `start`; the digest will show whether the file is complete
        response.raise_for_status()
        served = response.headers.get("Content-Range", "")
        goes_on = response.status_code == 206 and served.startswith(f"bytes {start}-")
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
