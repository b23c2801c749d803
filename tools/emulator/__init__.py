# SPDX-License-Identifier: Apache-2.0
"""Emulated ARM devices: a stock Debian kernel in QEMU that runs the real adbd. docs/emulator.md explains them."""

from .adb import AdbServer
from .device import TARGETS, Device, boot
from .packages import EmulatorError

__all__ = ["TARGETS", "AdbServer", "Device", "EmulatorError", "boot"]
