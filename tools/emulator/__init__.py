# SPDX-License-Identifier: Apache-2.0
"""Emulated ARM devices: a stock Debian kernel in QEMU that runs the real adbd. docs/emulator.md explains them."""

from .adb import AdbServer
from .board import BOARD_LOGIN, BOARD_PASSWORD, Board, boot_board
from .device import TARGETS, Device, Done, KeptDisk, SlowDisk, boot
from .packages import EmulatorError

__all__ = [
    "BOARD_LOGIN",
    "BOARD_PASSWORD",
    "TARGETS",
    "AdbServer",
    "Board",
    "Device",
    "Done",
    "EmulatorError",
    "KeptDisk",
    "SlowDisk",
    "boot",
    "boot_board",
]
