# SPDX-License-Identifier: Apache-2.0
"""export: everything as Prometheus metrics."""

import re
import signal
import threading
from pathlib import Path

import click
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from ..errors import Usage
from ..files import write_whole
from ..gather import Gatherer
from ..metrics import DeviceCollector
from ..transport import open_transport
from .session import Session, pass_session

LISTEN = "127.0.0.1:9823"
_SCRAPE_SECONDS = 8.0
"""Prometheus gives a scrape up after 10."""
_STDOUT = "-"


@click.command()
@click.option("--listen", metavar="HOST:PORT", help=f"Serve them there ({LISTEN}).")
@click.option("--once", metavar="[FILE]", is_flag=False, flag_value=_STDOUT,
              help="Write them, once: to FILE, which is replaced as a whole, or standard output.")  # fmt: skip
@click.option("--kernel", is_flag=True, help="The kernel's zram and zswap, too.")
@pass_session
def export(session: Session, listen: str | None, once: str | None, kernel: bool) -> None:
    """Show statistics, parameters and pools as Prometheus metrics.

    While the device or its daemon is lost, zcache_up is 0; --once writes that, too, and fails as other commands do.
    docs/export.md says what there is.
    """
    if listen and once:
        raise Usage("--listen and --once: one of them", hint="zcache export --help")
    if session.as_json:
        raise Usage("export: has no JSON", hint="zcache stats --json")
    host, port = _address(listen or LISTEN)
    serial = session.wanted_serial if once else session.let_go()
    seconds = min(session.timeout, _SCRAPE_SECONDS)
    with Gatherer(lambda known: open_transport(known or serial, seconds), kernel=kernel) as gatherer:
        collector = DeviceCollector(gatherer)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        if once:
            _write(collector, registry, once)
        else:
            _serve(session, registry, host, port)


def _address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})", text)
    if not match or int(match["port"]) > 65535:
        raise Usage(f"--listen {text}: no address", hint=f"e.g. {LISTEN}, 0.0.0.0:9823 or [::1]:9823")
    return match["v6"] or match["host"] or "0.0.0.0", int(match["port"])  # noqa: S104 (as it was asked for)


def _write(collector: DeviceCollector, registry: CollectorRegistry, target: str) -> None:
    text = generate_latest(registry).decode()
    if target == _STDOUT:
        click.echo(text, nl=False)
    else:
        write_whole(Path(target), text)
    if collector.last and collector.last.problem:
        raise collector.last.problem


def _serve(session: Session, registry: CollectorRegistry, host: str, port: int) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise Usage(
            f"--listen {host}:{port}: {error.strerror or error}", hint="another port, or end what has it"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    session.output.text(f"serves http://{shown}:{server.server_port}/metrics for {session.transport.serial}")
    session.output.console.file.flush()
    try:
        ended.wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
