"""A guard before Triton's HTTP, which two single requests can crash and which knows no limits.

Triton 24.10 dies of a body in many small chunks (CVE-2025-23310) and of a form of 4 MiB, the
content type that curl and urllib send by default. Here no chunked body and no compressed body
passes, none is larger than a limit, and every one goes on as `application/octet-stream`.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import NamedTuple

from nano_cv.serving.triton import LOOPBACK

log = logging.getLogger(__name__)

HEAD_BYTES = 16 * 2**10
PIECE = 64 * 2**10
CONNECTIONS = 256
IDLE_SECONDS = 75  # between two requests of one connection
LINGER_SECONDS = 1  # a refused sender still gets to read the answer
LAST_SECONDS = 0.5  # while draining, for a request that is already on its way
OURS = {"connection", "keep-alive", "proxy-connection", "content-type", "expect", "host", "te"}


class RefusalError(Exception):
    """A request that does not reach Triton: a status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Head(NamedTuple):
    """The first line of a request or an answer, and its headers with names in lower case."""

    first: str
    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def text(self, leave_out: set[str], *more: str) -> bytes:
        """As it goes over the wire."""
        kept = [f"{key}: {value}" for key, value in self.headers if key not in leave_out]
        return "\r\n".join([self.first, *kept, *more, "", ""]).encode("latin-1")


def parse(text: bytes) -> Head:
    """Read a head.

    Raises:
        RefusalError: it is none, or is ambiguous.
    """
    first, *lines = text.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or "\n" in line or "\r" in line:
            raise RefusalError(400, "a header that cannot be understood")
        headers.append((name.lower(), value.strip()))
    return Head(first, headers)


def body_size(head: Head, most: int) -> int:
    """How many bytes follow the head of a request.

    Raises:
        RefusalError: too many, or nobody can say.
    """
    if head.all("transfer-encoding"):
        raise RefusalError(411, "no chunked bodies here: send a Content-Length")
    if head.all("content-encoding"):
        raise RefusalError(415, "no compressed bodies here: leave out Content-Encoding")
    sizes = head.all("content-length")
    if not sizes:
        return 0
    size = sizes[0]
    if len(sizes) > 1 or not (size.isascii() and size.isdecimal()) or len(size) > 18:
        raise RefusalError(400, "a Content-Length that cannot be understood")
    if int(size) > most:
        raise RefusalError(413, f"{size} bytes; the limit, max_request_bytes, is {most}")
    return int(size)


class Guard:
    """Listens on loopback and passes on what is safe."""

    def __init__(self, triton: int, max_bytes: int, receive_seconds: float) -> None:
        """Set the limits.

        Args:
            triton: the port of Triton's own HTTP.
            max_bytes: of a body.
            receive_seconds: in which a request must have arrived.
        """
        self.triton, self.max_bytes, self.receive_seconds = triton, max_bytes, receive_seconds
        self.server: asyncio.Server | None = None
        self.idle: set[asyncio.StreamWriter] = set()
        self.open: set[asyncio.StreamWriter] = set()
        self.draining = False

    async def start(self, port: int) -> None:
        """Listen."""
        self.server = await asyncio.start_server(self._serve, LOOPBACK, port, limit=HEAD_BYTES)

    async def drain(self, seconds: float) -> None:
        """Answer what has arrived or is on its way, each with `Connection: close`, and end."""
        self.draining = True
        if self.server:
            self.server.close()
        try:
            async with asyncio.timeout(seconds):
                await asyncio.sleep(LAST_SECONDS if self.open else 0)
                while self.open:
                    for writer in list(self.idle):
                        writer.close()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning("HTTP: %d requests were not answered in %g s", len(self.open), seconds)
            for writer in self.open:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            if len(self.open) > CONNECTIONS:
                raise RefusalError(503, f"more than {CONNECTIONS} connections")
            while await self._pass_on(reader, writer):
                pass
        except RefusalError as refusal:
            await self._refuse(reader, writer, refusal)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client went away, or says nothing more
        finally:
            self.idle.discard(writer)
            self.open.discard(writer)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays open."""
        self.idle.add(writer)
        async with asyncio.timeout(IDLE_SECONDS):
            start = await reader.readexactly(1)
        self.idle.discard(writer)
        try:
            async with asyncio.timeout(self.receive_seconds) as limit:
                head = parse(start + await reader.readuntil(b"\r\n\r\n"))
                size = body_size(head, self.max_bytes)
                if head.first.split(" ")[-1] not in ("HTTP/1.1", "HTTP/1.0"):
                    raise RefusalError(400, "not HTTP/1.1")
                if any("100-continue" in value.lower() for value in head.all("expect")):
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                upstream, outward = await self._connect()
                try:
                    kind = ["Content-Type: application/octet-stream"] if size else []
                    own = [f"Host: {LOOPBACK}:{self.triton}", "Connection: close", *kind]
                    outward.write(head.text(OURS, *own))
                    await _copy(reader, outward, size, RefusalError(502, "Triton has gone"))
                    limit.reschedule(None)  # how long Triton may think is the client's to say
                    return await self._answer(head, upstream, writer)
                finally:
                    outward.close()
        except asyncio.LimitOverrunError as error:
            raise RefusalError(431, f"headers of more than {HEAD_BYTES} bytes") from error
        except TimeoutError as error:
            raise RefusalError(408, f"not received in {self.receive_seconds:g} s") from error

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection(LOOPBACK, self.triton, limit=HEAD_BYTES)
        except OSError as error:
            raise RefusalError(503, "Triton is starting; try again") from error

    async def _answer(
        self, head: Head, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        try:
            answer = parse(await upstream.readuntil(b"\r\n\r\n"))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise RefusalError(502, "Triton gave no answer") from error
        wish = ",".join(head.all("connection")).lower()
        stay = "close" not in wish and head.first.endswith("1.1")
        length = answer.all("content-length")
        empty = head.first.startswith("HEAD ") or answer.first.split(" ")[1] in ("204", "304")
        stay = stay and bool(length or empty) and not self.draining
        how = "Connection: keep-alive" if stay else "Connection: close"
        writer.write(answer.text({"connection", "keep-alive"}, how))
        if not empty:  # a chunked answer is passed on as it is, up to Triton's end of connection
            await _copy(upstream, writer, int(length[0]) if length else None)
        await writer.drain()
        return stay

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refusal: RefusalError
    ) -> None:
        body = f'{{"error": "{refusal.reason}"}}\n'.encode()
        status = f"{refusal.status} {HTTPStatus(refusal.status).phrase}"
        try:
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(LINGER_SECONDS):
                while await reader.read(PIECE):
                    pass
        except (OSError, TimeoutError):
            pass


async def _copy(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter,
    size: int | None,
    gone: Exception | None = None,
) -> None:
    """Pass on `size` bytes, or all up to the end.

    Raises:
        asyncio.IncompleteReadError: there were fewer.
        gone: the target takes no more.
    """
    left = size
    while left is None or left > 0:
        piece = await source.read(PIECE if left is None else min(PIECE, left))
        if not piece:
            if left:
                raise asyncio.IncompleteReadError(b"", left)
            return
        if left is not None:
            left -= len(piece)
        try:
            target.write(piece)
            await target.drain()
        except OSError as error:
            raise gone or error from error
