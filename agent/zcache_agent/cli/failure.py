# SPDX-License-Identifier: Apache-2.0
"""What a command failed by, as an error that can be shown."""

import traceback

import click

from ..errors import Usage, ZcacheError

EXIT_INTERNAL = 70  # sysexits' EX_SOFTWARE
EXIT_INTERRUPTED = 130


def as_error(failure: Exception, *, verbose: bool = False) -> ZcacheError:
    """What is no error that zcache knows is one in zcache: `verbose` shows where."""
    if isinstance(failure, ZcacheError):
        return failure
    if isinstance(failure, click.ClickException):
        return _usage(failure)
    if verbose:
        traceback.print_exception(failure)
    error = ZcacheError(
        f"internal error: {type(failure).__name__}: {failure}",
        name="internal",
        hint="run it with -v for the traceback, and report it with zcache bugreport",
    )
    error.exit_code = EXIT_INTERNAL
    return error


def interrupted() -> ZcacheError:
    error = ZcacheError("interrupted", name="interrupted")
    error.exit_code = EXIT_INTERRUPTED
    return error


def _usage(wrong: click.ClickException) -> Usage:
    context = getattr(wrong, "ctx", None)
    hint = f"{context.command_path} --help" if context else "zcache --help"
    return Usage(wrong.format_message(), hint=hint)
