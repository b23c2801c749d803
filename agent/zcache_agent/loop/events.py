# SPDX-License-Identifier: Apache-2.0
"""What the closed loop tells, as documents, and their text for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ZcacheError

if TYPE_CHECKING:  # who only reads events needs no rules
    from .rules import Decision

Event = Mapping[str, Any]
"""`time` in seconds since 1970, `event`, and what belongs to it."""


class Events:
    """A Teller (run.py) that makes a document of each event and hands it on."""

    def __init__(self, put: Callable[[Event], None], *, dry_run: bool = False) -> None:
        self._put = put
        self._done = "would_set" if dry_run else "set"

    def decided(self, decision: Decision, refusal: str) -> None:
        facts = {"path": decision.path, "old": decision.old, "new": decision.new, "reason": decision.reason}
        if refusal:
            self.tell("refused", **facts, refusal=refusal)
        else:
            self.tell(self._done, **facts)

    def lost(self, error: ZcacheError) -> None:
        self.tell("lost", message=error.message)

    def found(self) -> None:
        self.tell("found")

    def tell(self, event: str, **facts: object) -> None:
        self._put({"time": round(time.time(), 3), "event": event, **facts})


def text_of(event: Event) -> str:
    """A line."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event['time']))} {_said(event)}"


def _said(event: Event) -> str:
    kind = event["event"]
    if kind == "refused":
        kind = f"refused ({event['refusal']})"
    if "path" in event:
        return f"{kind.replace('_', ' ')} {event['path']} {event['old']} -> {event['new']}: {event['reason']}"
    if kind == "lost":
        return f"lost: {event['message']}; trying again"
    if kind == "found":
        return "found again"
    return f"{kind}: {event['message']}" if "message" in event else str(kind)
