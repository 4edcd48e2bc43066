"""Ports for what tests start."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A free TCP port of 127.0.0.1.

    It lies below the range (32768-60999 on Linux) from which a system serves outgoing connections and whoever binds
    port 0: one from there may be gone by the time that a server, half a minute of imports later, listens on it.
    """
    for port in random.sample(range(20000, 32000), 100):
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError("none of 100 ports between 20000 and 32000 is free")
