# SPDX-License-Identifier: Apache-2.0
"""top: a live dashboard."""

import os
import sys

import click

from ..errors import Usage
from ..gather import Gatherer
from ..transport import open_transport
from .session import Session, pass_session

_INSTEAD = "zcache stats -w shows numbers as lines"


@click.command()
@click.option(
    "--interval", metavar="S", type=click.FloatRange(min=0.1), default=1.0, help="Seconds between two looks (1)."
)
@click.option("--kernel", is_flag=True, help="The kernel's zram and zswap beside.")
@pass_session
def top(session: Session, interval: float, kernel: bool) -> None:
    """Show what goes on, live: memory, rates, refusals, sizes of zpages, pools, pressure.

    Keys: q leaves, k shows zram and zswap, space holds, arrows choose the pool whose zpages are shown. With
    NO_COLOR there are no colours. A device or daemon that is lost is said, and shown again once it is back.
    """
    if session.as_json:
        raise Usage("top: has no JSON", hint="zcache stats -w --json")
    if not (sys.stdout.isatty() and sys.stdin.isatty()) or os.environ.get("TERM") in (None, "dumb", "unknown"):
        raise Usage("top: this is no terminal that could show it", hint=_INSTEAD)
    if not kernel:
        _ = session.daemon
    serial = session.let_go()  # no device, or which? is no thing to wait for

    from .dashboard import Dashboard  # textual is slow to import

    with Gatherer(lambda known: open_transport(known or serial, session.timeout), kernel=kernel) as gatherer:
        app = Dashboard(gatherer, interval)
        app.run()
    if app.failure:
        raise app.failure
