# SPDX-License-Identifier: Apache-2.0
"""devices, doctor, wait, version: what there is to work with."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import click

from .. import __version__
from ..binary import bundled
from ..control import ABI
from ..daemon import find
from ..device import Device
from ..doctor import Examination, examine
from ..errors import CheckFailed, DaemonAbsent, NoDevice
from ..transport import open_transport
from .fleet import View, each_device
from .output import size_text
from .session import Session, pass_session


@click.command()
@pass_session
def devices(session: Session) -> None:
    """List the devices that -s takes."""
    from ..transport.adb import AdbServer  # adbutils is slow to import
    from ..transport.serial import ports

    seen = [(d.serial, d.state, d.model, d.hint) for d in AdbServer(session.timeout).devices()]
    seen += [(spec, "serial port", what, "") for spec, what in ports()]
    seen.append(("local", "device", "this machine", ""))
    columns = ("serial", "state", "model", "hint")
    if session.as_json:
        session.output.document([dict(zip(columns, row, strict=True)) for row in seen])
        return
    session.output.table(columns, seen)


def _doctor_row(facts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    device = facts["device"]
    system = f"Android {device['android']}" if device["android"] else "Linux"
    refused = ", ".join(use["name"] for use in facts["uses"] if not use["allowed"])
    abi = device["abis"][0]
    yield (device["model"], system, device["kernel"], abi, size_text(device["mem_total"]), facts["root"]["how"] or "no",
           refused or "-")  # fmt: skip


_DOCTOR = View(("model", "system", "kernel", "ABI", "memory>", "root", "not allowed"), _doctor_row)


@click.command()
@each_device(_DOCTOR)
def doctor(session: Session) -> None:
    """Say what the device is and which of zcache's uses it allows. Exit code 1: not even the main one."""
    with session.output.progress("examining") as step:
        examined = examine(session.transport, step)
    if session.as_json:
        session.output.document(examined.as_json())
    else:
        _show(session, examined)
    main = examined.uses[0]
    if not main.allowed:
        raise CheckFailed(f"{session.transport.serial}: {main.name}: {main.why}", hint=main.change)


def _show(session: Session, examined: Examination) -> None:
    device, out = examined.device, session.output
    facts = [
        ("device", " ".join(filter(None, (device.serial, device.model)))),
        ("system", f"Android {device.android}" if device.android else "Linux"),
        ("kernel", f"{device.kernel} ({device.machine})"),
        ("ABIs", ", ".join(device.abis)),
        ("page size", f"{device.page_size} bytes" if device.page_size else "unknown"),
        ("memory", f"{size_text(device.mem_total)}, {size_text(device.mem_available)} available"),
        ("cgroup limit", size_text(device.cgroup_limit) if device.cgroup_limit else "none"),
        ("user", device.user),
        ("root", examined.root.how or examined.root.refusals),
        ("SELinux", device.selinux),
        ("zram", device.zram),
        ("zswap", _zswap(device)),
        ("ublk", device.ublk),
        ("nbd", device.nbd),
        ("userfaultfd", examined.probe.userfaultfd),
        ("PSI", "yes" if device.psi else "no"),
        ("swap areas", ", ".join(device.swaps) or "none"),
        ("daemon", f"zcached {examined.daemon.version}" if examined.daemon else "none runs"),
    ]
    out.table(("fact", "value"), facts)
    out.text("")
    rows = [(use.name, "yes" if use.allowed else "no", use.why, use.change) for use in examined.uses]
    out.table(("use", "works", "why not", "what would change that"), rows)


def _zswap(device: Device) -> str:
    if device.zswap_on:
        return "in front of all swap, which is compressed twice; write N to /sys/module/zswap/parameters/enabled"
    return "off" if device.zswap else "no"


@click.command()
@click.option("--daemon", is_flag=True, help="Wait until a daemon answers too.")
@each_device(View(("state",), lambda _: [("answers",)]))
def wait(session: Session, daemon: bool) -> None:
    """Wait until the device answers, for --timeout seconds."""
    end = time.monotonic() + session.timeout
    with session.output.progress("waiting") as step:
        while True:
            left = end - time.monotonic()
            try:
                with open_transport(session.wanted_serial, max(0.1, left)) as transport:
                    transport.run(["true"])
                    if daemon:
                        find(transport).control().close()
                    break
            except (NoDevice, DaemonAbsent) as error:
                if error.name == "ambiguous_device" or left <= 0.5:
                    raise
                step(1 - left / session.timeout, error.message)
            time.sleep(0.5)
    if session.as_json:
        session.output.document({"serial": transport.serial})


@click.command()
@each_device(View(("agent", "daemon"), lambda facts: [(facts["agent"], facts["daemon"] or "none runs")]))
def version(session: Session) -> None:
    """Show versions: the agent's, its binaries', and the daemon's if a device is named."""
    facts: dict[str, object] = {"agent": __version__, "abi": ABI, "binaries": list(bundled())}
    if session.wanted_serial:
        facts["daemon"] = None
        with contextlib.suppress(DaemonAbsent):
            facts["daemon"] = session.daemon.version
    if session.as_json:
        session.output.document(facts)
        return
    session.output.text(f"zcache {__version__}, ABI {ABI}")
    session.output.text(f"binaries: {', '.join(bundled()) or 'none (make build brings them)'}")
    if "daemon" in facts:
        session.output.text(f"daemon: {facts['daemon'] or 'none runs'}")
