# SPDX-License-Identifier: Apache-2.0
"""completion: what a shell needs to complete zcache's words, by click; and those words that only a device knows.

A shell that completes starts zcache with COMPLETE set. Whatever goes wrong then is silence, and it ends within SECONDS.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class
from click.shell_completion import shell_complete as answer
from click.shell_completion import split_arg_string as split

from ..control import Description
from ..errors import Usage
from .session import Session, pass_session

COMPLETE = "_ZCACHE_COMPLETE"
SECONDS = 2.0
"""All that a shell is kept waiting."""
_ANSWER_SECONDS = 1.5

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_session
def completion(session: Session, shell: str) -> None:
    """Write what has SHELL complete zcache's commands, options, devices, pools and paths.

    \b
    bash  source <(zcache completion bash), in ~/.bashrc; bash 4.4 or later
    zsh   source <(zcache completion zsh), in ~/.zshrc, after compinit
    fish  zcache completion fish >~/.config/fish/completions/zcache.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Usage(f"{shell}: this click completes for no such shell", hint="bash, zsh or fish")
    script = kind(click.get_current_context().find_root().command, {}, "zcache", COMPLETE).source()
    if session.as_json:
        session.output.document({"shell": shell, "script": script})
        return
    click.echo(script, nl=False)


def complete(program: click.Command, session: Session, instruction: str) -> int:
    """Answers a shell. Nothing that goes wrong is shown, as that would end up in the line that is being typed."""
    with open(os.devnull, "w") as nothing:  # noqa: PTH123 (a device)
        os.dup2(nothing.fileno(), sys.stderr.fileno())
    end = threading.Timer(SECONDS, os._exit, (0,))
    end.daemon = True
    end.start()
    session.timeout = _ANSWER_SECONDS
    with contextlib.suppress(Exception), session:
        answer(program, {"obj": session}, "zcache", COMPLETE, instruction)
        sys.stdout.flush()
    return 0


class _Bash(BashComplete):
    """Puts together what bash takes apart at colons: 127.0.0.1:5555 is one word."""

    _kept = ""
    """What of the word bash keeps, and completions go without."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words = split(os.environ["COMP_WORDS"])[: int(os.environ["COMP_CWORD"]) + 1]
        if len(words) <= int(os.environ["COMP_CWORD"]):
            words.append("")
        whole: list[str] = []
        for place, word in enumerate(words):
            if place > 1 and (word == ":" or words[place - 1] == ":"):
                whole[-1] += word
            else:
                whole.append(word)
        self._kept = whole[-1][: whole[-1].rfind(":") + 1]
        return whole[1:-1], whole[-1]

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{str(item.value).removeprefix(self._kept)}"


add_completion_class(_Bash)


def _items(known: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value, help=meaning or None) for value, meaning in known if value.startswith(incomplete)]


def serials(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    before = incomplete[: incomplete.rfind(",") + 1]
    known = [("local", "this machine"), ("all", "every device of adb")]
    with contextlib.suppress(Exception):
        known = [*((device.serial, f"{device.state} {device.model}".strip()) for device in _adb_devices()), *known]
    return _items(((before + serial, meaning) for serial, meaning in known), incomplete)


def _adb_devices() -> Sequence[Any]:
    """Those of an adb server that runs: to press the tabulator starts none."""
    from ..transport.adb import AdbServer  # adbutils is slow to import

    server = AdbServer(_ANSWER_SECONDS)
    socket.create_connection((server.host, server.port), _ANSWER_SECONDS).close()
    return server.devices()


def pools(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    session = _reached(ctx)
    return _items(((name, "") for name in _directories(session, "pools")), incomplete) if session else []


def paths(access: str = "r", within: str = "") -> Complete:
    """Completes paths of nodes that can be read, or be set (`w`), in directories of that name."""

    def matching(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        session = _reached(ctx)
        given = ctx.params.get(param.name or "") or ()
        if session is None or (access == "w" and len(given) % 2):  # a value, not a path
            return []
        known = [node for node in session.control.describe() if access in node.access]
        inside = [node for node in known if not within or within in node.path.split("/")[:-1]]
        return _items(((path, node.meaning) for node in inside for path in _there(session, node)), incomplete)

    return matching


def directories(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    session = _reached(ctx)
    if session is None:
        return []
    nodes = session.control.describe()
    known = {path.rpartition("/")[0] for node in nodes for path in _there(session, node)} - {""}
    return _items(((path, "") for path in sorted(known)), incomplete)


def _there(session: Session, node: Description) -> list[str]:
    """The paths that a description stands for."""
    for directory, template in (("pools", "NAME"), ("dictionaries", "ID")):
        if node.path.startswith(f"{directory}/{template}/"):
            return [node.path.replace(template, name, 1) for name in _directories(session, directory)]
    return [node.path]


def _directories(session: Session, path: str) -> list[str]:
    return [name.removesuffix("/") for name in session.control.list(path) if name.endswith("/")]


def _reached(ctx: click.Context) -> Session | None:
    """The session of the line, where its device can be asked: over a serial line or several, that takes too long."""
    session = ctx.find_object(Session)
    assert session is not None
    serial = session.wanted_serial or ""
    if serial == "all" or "," in serial or serial.startswith("serial:"):
        return None
    if serial.partition(":")[0] != "local":
        _adb_devices()  # or it raises
    return session
