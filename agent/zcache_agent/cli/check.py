# SPDX-License-Identifier: Apache-2.0
"""check: does what the daemon holds hang together?"""

import click

from ..check import check as look
from ..errors import CheckFailed
from .fleet import View, each_device
from .session import Session


@click.command()
@each_device(View(("pools>", "pages>"), lambda facts: [(facts["pools"], facts["pages"])]))
def check(session: Session) -> None:
    """Have the daemon go through all that it holds, and hold its counters against each other.

    Every page's place and checksum, the allocators' lists, every count. Puts and gets go on meanwhile. It takes less
    than to get all of the pages; if these are many, give it time by --timeout. Exit code 1: something is wrong.
    """
    with session.output.progress("checking"):
        verdict = look(session.control)
    if session.as_json:
        facts = {"wrong": verdict.wrong, "pools": verdict.pools, "pages": verdict.pages, "compared": verdict.compared}
        session.output.document({"ok": not verdict.wrong, **facts})
    if verdict.wrong:
        for what in [] if session.as_json else verdict.wrong:
            session.output.text(what)
        raise CheckFailed(
            f"{len(verdict.wrong)} of what was checked is wrong: {verdict.wrong[0]}",
            hint="please report it, with what zcache bugreport writes",
        )
    if session.as_json:
        return
    busy = "" if verdict.compared else "; too busy to hold the store's sums against the pools"
    pools = "1 pool" if verdict.pools == 1 else f"{verdict.pools} pools"
    session.output.text(f"ok: {verdict.pages} pages in {pools}{busy}")
