# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can meet. Each says on one line what is wrong with what; the hint is the way out."""


class ZcacheError(Exception):
    """`name` is for programs, `message` and `hint` are for people, `exit_code` is the command's."""

    exit_code = 1
    default_name = "failed"

    def __init__(self, message: str, *, name: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.name = name or self.default_name
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())


class CheckFailed(ZcacheError):
    """What was checked is not as it should be."""

    exit_code = 1
    default_name = "check_failed"


class Usage(ZcacheError):
    exit_code = 2
    default_name = "usage"


class NoDevice(ZcacheError):
    """No device, more than one to choose from, or one that is gone or does not answer."""

    exit_code = 3
    default_name = "no_device"


class DaemonAbsent(ZcacheError):
    """No daemon runs, it could not be brought to run, or it is of another version."""

    exit_code = 4
    default_name = "no_daemon"


class ProtocolError(DaemonAbsent):
    """What answers does not speak as a zcached of this version does."""

    default_name = "protocol"


class Refused(ZcacheError):
    """The daemon said no; `name` is an errno's."""

    exit_code = 5
    default_name = "refused"
