"""The truth about the server, for machines: `/health`, `/live` and `/metrics` on loopback."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from nano_cv.serving.triton import LOOPBACK

READ_SECONDS = 5
TEXT = "text/plain; version=0.0.4; charset=utf-8"  # what Prometheus expects

Page = tuple[int, str, str]  # status, content type, text


def as_json(status: int, content: Mapping[str, Any]) -> Page:
    """A page of JSON."""
    return status, "application/json", json.dumps(content, indent=2) + "\n"


class Pages:
    """A small HTTP server: one GET a connection."""

    def __init__(self, pages: Mapping[str, Callable[[], Page | Awaitable[Page]]]) -> None:
        """`pages` maps a path to the function that makes its page."""
        self.pages = pages
        self.server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen on loopback."""
        self.server = await asyncio.start_server(self._answer, LOOPBACK, port, limit=2**14)

    async def stop(self) -> None:
        """Stop listening."""
        if self.server:
            self.server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target = (*head.split(" ", 2), "", "")[:2]
            page = self.pages.get(target.split("?")[0])
            if method not in ("GET", "HEAD"):
                answer: Page = (405, "text/plain", "only GET\n")
            elif page is None:
                answer = (404, "text/plain", f"there are {', '.join(self.pages)}\n")
            else:
                made = page()
                answer = made if isinstance(made, tuple) else await made
            status, kind, text = answer
            body = text.encode()
            writer.write(
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + (body if method == "GET" else b"")
            )
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that goes away, or never says what it wants
        finally:
            writer.close()
