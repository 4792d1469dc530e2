"""Ports on loopback."""

import socket
from collections.abc import Mapping

from nano_cv.errors import UserError
from nano_cv.serving.triton import LOOPBACK, free_ports


def check_ports(ports: Mapping[str, int | None]) -> None:
    """Make sure that each is free; the keys are those of the configuration.

    Raises:
        UserError: one is taken, is none, or is given twice.
    """
    given = {key: port for key, port in ports.items() if port is not None}
    for key, port in given.items():
        if not 1 <= port <= 65535:
            raise UserError(f"{key}={port}: a port is a number from 1 to 65535")
        twice = [other for other in given if other != key and given[other] == port]
        if twice:
            raise UserError(f"{key} and {twice[0]} are both {port}; each needs its own")
        try:
            _bind(port)
        except OSError as error:
            raise UserError(
                f"{key}={port}: {error.strerror}; stop what listens there, or choose another: "
                f"{key}={free_ports(1)[0]}"
            ) from error


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended
        probe.bind((LOOPBACK, port))
        probe.listen()
