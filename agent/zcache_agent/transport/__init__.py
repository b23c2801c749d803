# SPDX-License-Identifier: Apache-2.0
"""Ways to a device."""

from ..errors import Usage
from .base import Transport

__all__ = ["Transport", "open_transport"]


def open_transport(serial: str | None, timeout: float) -> Transport:
    """`serial`: local, local:DIR, serial:PORT[,SPEED], an adb serial, or None for the only device that adb
    sees; NoDevice if that fails.

    `timeout`: seconds within which each operation ends.
    """
    kind, colon, rest = (serial or "").partition(":")
    if kind == "local":
        from .local import LocalTransport

        if colon and not rest:
            raise Usage("local: names no directory", hint="local, or local:DIR")
        return LocalTransport(rest or None, timeout)
    if kind == "serial":
        from .serial import SerialTransport

        return SerialTransport(str(serial), timeout)
    from .adb import AdbServer, AdbTransport  # adbutils is slow to import

    return AdbTransport(AdbServer(timeout).choose(serial), timeout)
