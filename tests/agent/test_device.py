# SPDX-License-Identifier: Apache-2.0
"""What a device is said to be and to allow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import pytest

from tests.agent.conftest import Zcache
from zcache_agent.device import Device, Probe, Rights, Root, Use, find_root, look, uses
from zcache_agent.errors import NoDevice
from zcache_agent.transport.base import Completed
from zcache_agent.transport.local import LocalTransport

WORKS = Probe({"userfaultfd": "ok"})
ROOTED = Root(Rights.SU_C, {})
NO_ROOT = Root(None, {})


@pytest.fixture(scope="module")
def device() -> Device:
    """A rooted phone whose kernel has everything."""
    facts = look(LocalTransport())
    return dataclasses.replace(
        facts, serial="phone", uid=2000, ublk="yes", nbd="no", zram="yes", python="3.11", ptrace_scope=0
    )


def use(device: Device, root: Root, probe: Probe, name: str) -> Use:
    return next(use for use in uses(device, root, probe) if use.name == name)


def test_facts_of_this_machine() -> None:
    device = look(LocalTransport())
    assert device.page_size == os.sysconf("SC_PAGE_SIZE")
    assert device.mem_total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert (device.uid, device.machine, device.kernel) == (os.getuid(), os.uname().machine, os.uname().release)


def test_everything_is_allowed_where_everything_is(device: Device) -> None:
    assert all(use.allowed for use in uses(device, ROOTED, WORKS))


@pytest.mark.parametrize(
    ("name", "change", "root", "probe", "said"),
    [
        ("pools over the sockets", {}, ROOTED, Probe(failure="exec format error"), "exec format error"),
        ("replay --pid, any process", {}, NO_ROOT, WORKS, "root"),
        ("replay --pid, processes of the same user", {"ptrace_scope": 1}, NO_ROOT, WORKS, "Yama"),
        ("swap device", {}, NO_ROOT, WORKS, "root"),
        ("swap device", {"ublk": "no"}, ROOTED, WORKS, "CONFIG_BLK_DEV_UBLK"),
        ("swap device", {"ublk": "module"}, ROOTED, WORKS, "load the module"),
        ("block cache", {"ublk": "no"}, ROOTED, WORKS, "neither ublk nor nbd"),
        ("compressed heap", {}, ROOTED, Probe({"userfaultfd": "EPERM"}), "EPERM"),
        ("kernel zram tuning", {"zram": "module"}, ROOTED, WORKS, "load the module zram"),
        ("agent on the device", {"python": "3.9"}, ROOTED, WORKS, "Python 3.9"),
        ("agent on the device", {"python": ""}, ROOTED, WORKS, "not there"),
    ],
)
def test_what_is_not_allowed_says_why_and_what_would_change_it(
    device: Device, name: str, change: dict[str, object], root: Root, probe: Probe, said: str
) -> None:
    found = use(dataclasses.replace(device, **change), root, probe, name)  # type: ignore[arg-type]
    assert not found.allowed
    assert found.why
    assert found.change
    assert said in f"{found.why} {found.change}"


class FakeSu:
    """A device whose `su` answers as told: phones with each kind are not at hand."""

    is_local = False
    serial = "phone"
    timeout = 1.0

    def __init__(self, **answers: Completed | NoDevice) -> None:
        self.answers = answers

    def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Completed:
        answer = self.answers["su_0" if argv[1] == "0" else "su_c"]
        if isinstance(answer, NoDevice):
            raise answer
        return answer


YES, NO = Completed(0, b"0\n", b""), Completed(1, b"", b"su: Permission denied\n")
SILENT = NoDevice("no answer", name="timeout")


@pytest.mark.parametrize(
    ("answers", "rights"),
    [
        ({"su_c": YES}, Rights.SU_C),
        ({"su_c": NO, "su_0": YES}, Rights.SU_0),
        ({"su_c": SILENT, "su_0": YES}, Rights.SU_0),
        ({"su_c": NO, "su_0": Completed(0, b"2000\n", b"")}, None),
        ({"su_c": SILENT, "su_0": SILENT}, None),
    ],
)
def test_each_way_to_root_is_tried_and_told(answers: dict[str, Completed | NoDevice], rights: Rights | None) -> None:
    root = find_root(FakeSu(**answers), 2000)  # type: ignore[arg-type]
    assert root.rights is rights
    assert "uid 2000" in root.answers["already root"]
    assert all(root.answers.values())


def test_a_device_that_is_lost_while_root_is_asked_for_is_lost() -> None:
    with pytest.raises(NoDevice):
        find_root(FakeSu(su_c=NoDevice("gone", name="lost")), 2000)  # type: ignore[arg-type]


def test_commands_under_su_are_one_word_of_it() -> None:
    assert Rights.SU_C.wrap(["cat", "a b"]) == ["su", "-c", "cat 'a b'"]
    assert Rights.SU_0.wrap(["cat", "a b"]) == ["su", "0", "cat", "a b"]


def test_doctor_on_this_machine(zcache: Zcache) -> None:
    result = zcache("-s", "local", "doctor", "--json")
    assert result.code == 0, result.err
    facts = result.json
    assert facts["device"]["page_size"] == facts["probe"]["page_size"] == os.sysconf("SC_PAGE_SIZE")
    assert facts["uses"][0] == {"name": "pools over the sockets", "allowed": True, "why": "", "change": ""}
    assert "pools over the sockets" in zcache("-s", "local", "doctor").out
