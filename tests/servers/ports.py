"""Ports on loopback."""

import socket


def free_port(below: int = 65_536) -> int:
    """A port that nothing listens on right now.

    Another process may take it before the caller does, so a server that can't bind tries again with another one.
    """
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port < below:
            return port


def is_listening(host: str, port: int, timeout: float = 5.0) -> bool:
    """Whether something accepts a TCP connection there."""
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False
