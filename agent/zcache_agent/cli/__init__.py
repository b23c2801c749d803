# SPDX-License-Identifier: Apache-2.0
"""The command `zcache`. One module a command group, imported when one of its commands is asked for."""

import importlib
import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from ..errors import Usage
from .completion import COMPLETE, complete, serials
from .failure import as_error, interrupted
from .output import print_error
from .session import Session

COMMANDS = {
    "devices": "devices:devices",
    "doctor": "devices:doctor",
    "wait": "devices:wait",
    "version": "devices:version",
    "up": "daemon:up",
    "down": "daemon:down",
    "status": "daemon:status",
    "log": "daemon:log",
    "bugreport": "bugreport:bugreport",
    "ls": "tree:ls",
    "cat": "tree:cat",
    "set": "tree:set_",
    "stats": "tree:stats",
    "params": "tree:params",
    "top": "top:top",
    "export": "export:export",
    "report": "report:report",
    "pool": "pool:pool",
    "swap": "swap:swap",
    "blockcache": "blockcache:blockcache",
    "dictionary": "dictionary:dictionary",
    "check": "check:check",
    "replay": "replay:replay",
    "bench": "bench:bench",
    "analyze": "analyze:analyze_",
    "tune": "tune:tune",
    "config": "config:config",
    "kernel": "kernel:kernel",
    "record": "record:record",
    "simulate": "simulate:simulate_",
    "agent": "agent:agent",
    "install": "install:install",
    "uninstall": "install:uninstall",
    "demo": "demo:demo",
    "completion": "completion:completion",
}
"""Each command and its module and function in this folder, in the order of the help."""

EXIT_BROKEN_PIPE = 141


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name].split(":")
        command = getattr(importlib.import_module(f".{module}", __name__), function)
        assert isinstance(command, click.Command)
        _add_common_options(command)
        return command


def _add_common_options(command: click.Command) -> None:
    """The options that work before and after a command; the later one counts."""
    if any(option.name == "serial" for option in command.params):
        return
    command.params += _common_options()
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _add_common_options(child)


def _common_options() -> list[click.Parameter]:
    def keep(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value not in (None, False, 0):
            setattr(ctx.ensure_object(Session), str(param.name), value)

    def option(*names: str, **settings: object) -> click.Option:
        return click.Option(names, expose_value=False, callback=keep, **settings)  # type: ignore[arg-type]

    return [
        option(
            "-s",
            "--serial",
            metavar="SERIAL",
            help="The device: an adb serial, serial:PORT[,SPEED] for a board's console, or local[:DIR] for this"
            " machine; several with commas between, or all of adb's."
            " Else ZCACHE_SERIAL, ANDROID_SERIAL, or the only adb device.",
            shell_complete=serials,
        ),
        option("--json", "as_json", is_flag=True, help="One JSON document on standard output."),
        option("-v", "--verbose", count=True, help="Say more."),
        option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors."),
        option(
            "--timeout",
            metavar="S",
            type=click.FloatRange(min=0, min_open=True),
            help="Seconds that the device may take for each answer (30).",
        ),
    ]


@click.group(cls=_Commands, params=_common_options(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="zcache %(version)s")
def zcache() -> None:
    """Compressed memory for Android and embedded ARM devices.

    zcache up starts the daemon on a device, zcache demo shows what it does.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code. No exception leaves it."""
    session = Session()
    if instruction := os.environ.get(COMPLETE):
        return complete(zcache, session, instruction)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with session:
            code = zcache.main(words, prog_name="zcache", standalone_mode=False, obj=session)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
    except (BrokenPipeError, SystemExit):  # the latter is what click makes of the former
        return _reader_has_gone()
    except (KeyboardInterrupt, click.Abort):
        error = interrupted()
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.format_message(), err=True)
        return Usage.exit_code
    except Exception as failure:
        error = as_error(failure, verbose=bool(session.verbose))
    try:
        sys.stdout.flush()  # what was shown comes before what is wrong
    except BrokenPipeError:
        return _reader_has_gone()
    print_error(error, as_json=session.as_json or "--json" in words)
    return error.exit_code


def _reader_has_gone() -> int:
    """The interpreter's last flush must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE
