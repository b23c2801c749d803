# SPDX-License-Identifier: Apache-2.0
"""What ends a command from outside."""

import signal
import threading

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows has no SIGHUP."""


def clean_up_when_ended() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: it takes away what it made.

    Those of several devices have threads, which signals do not reach: whoever waits for them sees to it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for ending in ENDING:
        signal.signal(ending, signal.default_int_handler)
