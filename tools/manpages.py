# SPDX-License-Identifier: Apache-2.0
"""Writes zcache(1), from its commands, and zcached(8), from its --help: python -m tools.manpages DIR

click-man writes a page for each of 50 commands, knows none that are imported when asked for, and no exit codes.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from zcache_agent import __version__
from zcache_agent.binary import BUNDLED
from zcache_agent.cli import zcache

COMMON = ("serial", "as_json", "verbose", "quiet", "timeout")
"""Options of every command: shown once."""

ENVIRONMENT = {
    "ZCACHE_SERIAL": "The device, where -s names none.",
    "ANDROID_SERIAL": "The same, where that is not set either.",
    "ZCACHE_SERIAL_LOGIN": "Whom to log in as, where a serial line asks.",
    "ZCACHE_SERIAL_PASSWORD": "The password for that.",
    "ZCACHE_DIR": "The directory of -s local; else zcache in XDG_RUNTIME_DIR, or /tmp/zcache-UID.",
    "XDG_RUNTIME_DIR": "See ZCACHE_DIR.",
    "ZCACHE_LIBRARY": "The libzcache.so of zcache_agent.heap, instead of the one that comes with it.",
    "ZCACHE_SIM_LIBRARY": "The libzcsim.so of zcache simulate, the same.",
    "NO_COLOR": "No colours in zcache top.",
    "ADB_SERVER_SOCKET": "The adb server to use: tcp:HOST:PORT.",
    "ANDROID_ADB_SERVER_ADDRESS": "Its host, where that is not set (127.0.0.1).",
    "ANDROID_ADB_SERVER_PORT": "Its port (5037).",
}
EXIT_CODES = {
    "0": "All is well.",
    "1": "A check failed, a page came back changed, or something else failed.",
    "2": "Usage: a wrong command, option, value or file.",
    "3": "No device, more than one to choose from, or one that was lost or does not answer.",
    "4": "No daemon runs, none could be brought to run, or it is of another version.",
    "5": "The device or the daemon refused.",
    "70": "An internal error of zcache.",
    "130": "Interrupted by Ctrl-C.",
    "141": "Whoever read the output has gone.",
}
FILES = {
    "/data/local/tmp/zcache": "On Android, as adb's user: program, state, log.",
    "/data/adb/zcache": "On Android, as root.",
    "/var/lib/zcache": "Elsewhere, as root.",
}
DAEMON_FILES = {
    "DIR/zcached.state": "Process, version and sockets of the daemon that runs.",
    "DIR/zcached.lock": "Locked while one runs.",
    "DIR/zcached.log": "Its log.",
    "DIR/control.sock, DIR/data.sock": "The sockets, without --abstract.",
}


def escaped(text: str) -> str:
    """A line of text as roff has it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def header(name: str, section: int, meaning: str) -> list[str]:
    day = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    title = f'.TH {name.upper()} {section} {day} "zcache {__version__}"'
    return [title, ".SH NAME", f"{name} \\- {escaped(meaning)}"]


def terms(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in entries:
        yield from (".TP", term, escaped(text))


def paragraphs(text: str) -> Iterator[str]:
    """A docstring's; one that begins with \\b keeps its lines, as in click."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        lines = [line.strip() for line in paragraph.splitlines()]
        if number:
            yield ".PP"
        if lines[0] == "\b":
            yield from (".nf", *map(escaped, lines[1:]), ".fi")
        else:
            yield escaped(" ".join(lines))


def options(context: click.Context, params: Iterable[click.Parameter]) -> Iterator[str]:
    for param in params:
        record = param.get_help_record(context)
        if record and record[1]:
            yield from terms([(bold(record[0]), " ".join(record[1].split()))])


def commands(group: click.Group, context: click.Context) -> Iterator[click.Context]:
    """All that can be run, in the order of the help."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        child = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from commands(command, child)
        else:
            yield child


def section(context: click.Context) -> Iterator[str]:
    command = context.command
    own = [param for param in command.params if param.name not in COMMON]
    pieces = [piece for param in own for piece in param.get_usage_pieces(context)]
    usage = " ".join(["[OPTIONS]" if any(isinstance(param, click.Option) for param in own) else "", *pieces])
    yield f".SS {bold(context.command_path)} {escaped(usage.strip())}".rstrip()
    yield from paragraphs(command.help or "")
    yield from options(context, own)


def zcache_page() -> str:
    context = click.Context(zcache, info_name="zcache")
    lines = header("zcache", 1, "compressed memory for Android and embedded ARM devices")
    lines += [".SH SYNOPSIS", f"{bold('zcache')} [OPTIONS] COMMAND [ARGUMENTS]", ".SH DESCRIPTION"]
    lines += [*paragraphs(zcache.help or ""), ".SH OPTIONS", "These work before and after a command."]
    lines += [*options(context, zcache.params), ".SH COMMANDS"]
    for child in commands(zcache, context):
        lines += section(child)
    lines += [".SH ENVIRONMENT", *terms((bold(name), text) for name, text in ENVIRONMENT.items())]
    lines += [".SH FILES", *terms((escaped(name), text) for name, text in FILES.items())]
    lines += [".SH EXIT STATUS", *terms((bold(code), text) for code, text in EXIT_CODES.items())]
    lines += [".SH SEE ALSO", f"{bold('zcached')}(8), {bold('adb')}(1)"]
    return "\n".join(lines) + "\n"


def zcached_page(said: str) -> str:
    """From what --help says: usage, then entries of a name, two spaces and a text, then exit codes."""
    usage, about, details, codes = said.strip().split("\n\n")
    lines = header("zcached", 8, "keeps memory pages compressed and serves them")
    lines += [".SH SYNOPSIS", ".nf", *map(escaped, _unwrapped(usage.removeprefix("usage: "))), ".fi"]
    lines += [".SH DESCRIPTION", "The program on the device. zcache brings it there, starts it and speaks with it."]
    lines += terms((bold(name), text) for name, text in _entries(about))
    lines += [".SH OPTIONS", *terms((bold(name), text) for name, text in _entries(details))]
    lines += [".SH FILES", *terms((escaped(name), text) for name, text in DAEMON_FILES.items())]
    lines += [".SH EXIT STATUS", escaped(codes.removeprefix("exit codes: ") + "."), ".SH SEE ALSO"]
    lines += [f"{bold('zcache')}(1)"]
    return "\n".join(lines) + "\n"


def _unwrapped(usage: str) -> list[str]:
    return [line.strip() for line in re.sub(r"\n\s+(?!\s|zcached)", " ", usage).splitlines()]


def _entries(block: str) -> Iterator[tuple[str, str]]:
    for line in re.sub(r"\n +", " ", block).splitlines():
        name, text = re.split(r"  +", line, maxsplit=1)
        yield name, text


def daemon_help() -> str:
    program = BUNDLED / "host" / "zcached"
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "zcache.1").write_text(zcache_page())
    (directory / "zcached.8").write_text(zcached_page(daemon_help()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
