# SPDX-License-Identifier: Apache-2.0
"""Ways to a device."""

from ..errors import Usage
from .base import Transport

__all__ = ["Transport", "open_transport"]


def open_transport(serial: str, timeout: float) -> Transport:
    """`serial`: local, local:DIR, or an adb serial. `timeout`: seconds within which each operation ends."""
    kind, colon, rest = serial.partition(":")
    if kind == "local":
        from .local import LocalTransport

        if colon and not rest:
            raise Usage("local: names no directory", hint="local, or local:DIR")
        return LocalTransport(rest or None, timeout)
    if kind == "serial":
        raise Usage(f"{serial}: serial lines are not supported", hint="reach the device by adb")
    from .adb import AdbTransport  # adbutils is slow to import

    return AdbTransport(serial, timeout)
