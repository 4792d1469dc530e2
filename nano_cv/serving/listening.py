"""HTTP server: uvicorn, plus time limits for requests and answers, which uvicorn lacks."""

import asyncio
import logging
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from omegaconf import DictConfig
from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE = 60  # seconds that an idle connection is kept between two requests
HEAD_BYTES = 32 * 1024  # largest request line with its headers
GRACE = 5  # seconds more than the door's own limit, so that the door refuses a slow body first


class Protocol(H11Protocol):
    """HTTP/1.1 protocol that closes a connection whose client sends or reads too slowly.

    uvicorn alone lets a client that sends nothing, or a byte now and then, connect for ever, and
    also a client that does not read its answer.
    """

    seconds = 30.0
    request_timer: asyncio.TimerHandle | None = None
    answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that any unsent bytes pause the writing
        self.request_timer = self.loop.call_later(self.seconds + GRACE, self._late)

    def data_received(self, data: bytes) -> None:
        """Stop the clock once a request is complete, and start it with the next request."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._arrived()
        elif self.request_timer is None and not self.transport.is_closing():
            self.request_timer = self.loop.call_later(self.seconds + GRACE, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the clock for the client to read what has been sent."""
        super().pause_writing()
        unsent = self.transport.get_write_buffer_size()
        self.answer_timer = self.loop.call_later(self.seconds, self._reset_if_stuck, unsent)

    def resume_writing(self) -> None:
        """Stop the clock once everything is sent."""
        super().resume_writing()
        if self.answer_timer:
            self.answer_timer.cancel()
            self.answer_timer = None

    def _reset_if_stuck(self, unsent: int) -> None:
        """Close the connection if its client has read nothing since `unsent` bytes were left.

        It is reset, so that the kernel drops what it still holds for the client.
        """
        left = self.transport.get_write_buffer_size()
        if left < unsent:
            self.answer_timer = self.loop.call_later(self.seconds, self._reset_if_stuck, left)
            return
        linger = struct.pack("ii", 1, 0)  # on, and for 0 seconds
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self.transport.abort()

    def _arrived(self) -> None:
        if self.request_timer:
            self.request_timer.cancel()
            self.request_timer = None

    def _late(self) -> None:
        self.request_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            text = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self.transport.write(text)
        self.transport.close()


class Listener(uvicorn.Server):
    """uvicorn server that installs no signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals, because `service.serve` stops this server and Triton in order."""
        yield


def make_listener(app: FastAPI, config: DictConfig) -> Listener:
    """Return a server of `app` with the limits of `configs/serve.yaml`, not yet started."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # clients' mistakes are no news
    connections = _raise_file_limit(config.max_connections)
    return Listener(
        uvicorn.Config(
            app,
            config.host,
            config.port,
            http=type("Protocol", (Protocol,), {"seconds": config.receive_seconds}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=connections,
            backlog=connections,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=round(config.exit_timeout_seconds),
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
    )


def _raise_file_limit(needed: int) -> int:
    """Raise the limit of open files for `needed` connections; return how many will fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + 256 if hard == resource.RLIM_INFINITY else min(needed + 256, hard)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(64, min(needed, max(wanted, soft) - 256))
