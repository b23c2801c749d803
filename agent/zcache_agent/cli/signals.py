# SPDX-License-Identifier: Apache-2.0
"""What ends a command from outside."""

import signal


def clean_up_when_ended() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: it takes away what it made."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
