"""HTTP server: uvicorn, plus time limits for requests and answers, which uvicorn lacks."""

import logging
import resource
import socket
import struct
from contextlib import nullcontext
from typing import Any, cast

import h11
import uvicorn
from omegaconf import DictConfig
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE = 60  # seconds that an idle connection is kept between two requests
HEAD_BYTES = 32 * 1024  # largest request line with its headers
GRACE = 5  # seconds more than the door's own limit, so that the door refuses a slow body first


class Protocol(H11Protocol):
    """HTTP/1.1 connection that ends if its client sends or reads too slowly.

    uvicorn alone lets a client that sends nothing, or a byte now and then, stay connected for ever,
    and also a client that does not read its answer.
    """

    def connection_made(self, transport: Any) -> None:
        """Note the time, since which the first request is awaited."""
        super().connection_made(transport)
        # When the request began to arrive; None once it is whole.
        self.request_since: float | None = self.loop.time()
        # Bytes of the answer, and since when the client has read none of them.
        self.unsent, self.unsent_since = 0, self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Note when a request begins to arrive and when it is complete."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.request_since = None
        elif self.request_since is None:
            self.request_since = self.loop.time()

    def end_if_slow(self, seconds: float) -> None:
        """End the connection if its client has read nothing, or not sent a request, for so long."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self.unsent:
            self.unsent, self.unsent_since = unsent, now
        if now - self.unsent_since > seconds:
            # It is reset at once, so that the kernel drops what it still holds for the client.
            linger = struct.pack("ii", 1, 0)  # on, and for 0 seconds
            link = self.transport.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        elif self.request_since is not None and now - self.request_since > seconds + GRACE:
            self.request_since = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                status = b"HTTP/1.1 408 Request Timeout\r\n"
                self.transport.write(status + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()


def make_listener(app: ASGIApp, config: DictConfig) -> uvicorn.Server:
    """Return a server of `app` with the limits of `configs/serve.yaml`, not yet started."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # clients' mistakes are no news
    connections = _raise_file_limit(config.max_connections)

    async def end_slow_connections() -> None:
        for connection in list(listener.server_state.connections):
            cast(Protocol, connection).end_if_slow(config.receive_seconds)

    listener = uvicorn.Server(
        uvicorn.Config(
            app,
            config.host,
            config.port,
            http=Protocol,
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
            callback_notify=end_slow_connections,
            timeout_notify=0,  # uvicorn calls it once a second
        )
    )
    # `service.serve` answers signals: it stops this server and Triton in order.
    listener.capture_signals = nullcontext  # type: ignore[assignment]
    return listener


def _raise_file_limit(needed: int) -> int:
    """Raise the limit of open files for `needed` connections; return how many will fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + 256 if hard == resource.RLIM_INFINITY else min(needed + 256, hard)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(64, min(needed, max(wanted, soft) - 256))
