"""Ports that are to be listened on."""

import socket
from collections.abc import Mapping

from nano_cv.errors import UserError
from nano_cv.serving.triton import free_ports


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Make sure that each is free; the keys are those of the configuration.

    Raises:
        UserError: one is taken, is none, or is given twice.
    """
    for key, port in ports.items():
        twice = [other for other in ports if other != key and ports[other] == port]
        if twice:
            raise UserError(f"{key} and {twice[0]} are both {port}; each needs its own")
        try:
            _bind(host, port)
        except OSError as error:
            raise UserError(
                f"{key}={port}: {error.strerror}; stop what listens there, or choose another: "
                f"{key}={free_ports(1)[0]}"
            ) from error


def _bind(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended
        probe.bind((host, port))
        probe.listen()
