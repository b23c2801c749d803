# SPDX-License-Identifier: Apache-2.0
"""The control tree's client: against any bytes, and against the real daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.conftest import Result
from zcache_agent.control import ABI, LINE_MAX, ControlClient, number
from zcache_agent.daemon import Daemon, find
from zcache_agent.errors import DaemonAbsent, ProtocolError, Refused, ZcacheError
from zcache_agent.transport.base import ByteStream
from zcache_agent.transport.local import LocalTransport

ABI_ANSWER = b"OK 2\n%d\n" % ABI


class Scripted:
    """A daemon that says what it is told to: for answers that no real one gives."""

    unix: socket.socket | None = None

    def __init__(self, *said: bytes) -> None:
        self.said = list(said)
        self.asked = b""

    def read(self, size: int) -> bytes:
        if not self.said:
            return b""
        chunk = self.said.pop(0)
        if len(chunk) > size:
            self.said.insert(0, chunk[size:])
        return chunk[:size]

    def write(self, data: bytes) -> None:
        self.asked += data

    def close(self) -> None: ...


def client(*said: bytes) -> ControlClient:
    stream: ByteStream = Scripted(ABI_ANSWER, *said)
    return ControlClient(stream)


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("-3", -3), ("0.50", 0.5), ("87%", "87%"), ("0.1.0", "0.1.0"), ("", ""), ("1e5", "1e5")],
)
def test_numbers_are_numbers(text: str, value: object) -> None:
    assert number(text) == value
    assert type(number(text)) is type(value)


@given(st.binary(max_size=200))
def test_any_answer_is_a_value_or_an_error_of_ours(said: bytes) -> None:
    with contextlib.suppress(ZcacheError):
        client(said).get("version")


@given(st.text(max_size=50), st.data())
def test_an_answer_may_come_in_any_pieces(value: str, data: st.DataObject) -> None:
    payload = (value + "\n").encode()
    whole = b"OK %d\n" % len(payload) + payload
    cut = data.draw(st.integers(0, len(whole)))
    assert client(*filter(None, (whole[:cut], whole[cut:]))).get("x") == value


def test_another_abi_is_refused_by_name() -> None:
    with pytest.raises(DaemonAbsent, match=f"ABI 7.*ABI {ABI}") as caught:
        ControlClient(Scripted(b"OK 2\n7\n"))
    assert caught.value.name == "abi_mismatch"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400\n", b"OK x\n", b"OK 99999999999\n", b"x" * (LINE_MAX + 9), b"OK\n"])
def test_what_is_no_zcached_is_said_to_be_none(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        client(said).get("version")


def test_errors_carry_their_name() -> None:
    with pytest.raises(Refused) as caught:
        client(b"ERR ERANGE limit: '9' is out of range\n").set(("params/limit", "9"))
    assert (caught.value.name, caught.value.message) == ("ERANGE", "limit: '9' is out of range")


@pytest.mark.parametrize("value", ["", "a b", 'say "x"', r"back\slash and space", "name=swap kind=persistent"])
def test_a_value_is_one_word(value: str) -> None:
    stream = Scripted(ABI_ANSWER, b"OK 0\n")
    ControlClient(stream).set(("a", value), ("b", "2"))
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert stream.asked.splitlines()[1].decode() == f'set a "{escaped}" b 2'


@pytest.mark.parametrize("path", ["a\nb", "a\rb", "a\0b"])
def test_a_request_stays_one_line(path: str) -> None:
    with pytest.raises(Refused):
        client().get(path)


def test_a_request_that_is_too_long_is_not_sent() -> None:
    stream = Scripted(ABI_ANSWER)
    with pytest.raises(Refused, match=str(LINE_MAX)):
        ControlClient(stream).get("x" * LINE_MAX)
    assert stream.asked == b"get abi\n"


class TestRealDaemon:
    @pytest.fixture
    def daemon(self, local_daemon: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Daemon:
        directory = local_daemon("--json", "status").json["directory"]
        return find(LocalTransport(directory))

    @pytest.fixture
    def control(self, daemon: Daemon) -> ControlClient:
        return daemon.control()

    def test_values(self, control: ControlClient) -> None:
        assert control.get("abi") == str(ABI)
        assert control.get("page_size") == "4096"
        assert {"version", "params/", "stats/", "pools/"} <= set(control.list())
        assert set(control.dump("stats")) <= set(control.dump())

    def test_set_all_or_none(self, control: ControlClient) -> None:
        control.set(("pools/create", "name=a kind=ephemeral"))
        before = control.get("pools/a/params/zv_max_zsize")
        with pytest.raises(Refused) as caught:
            control.set(("pools/a/params/zv_max_zsize", "1/2"), ("pools/a/params/zv_max_mean_zsize", "999999"))
        assert caught.value.name in ("ERANGE", "EINVAL")
        assert control.get("pools/a/params/zv_max_zsize") == before
        control.set(("pools/a/params/zv_max_zsize", "1/2"))
        assert control.get("pools/a/params/zv_max_zsize") == "2048"

    @pytest.mark.parametrize(
        ("ask", "name"),
        [
            (lambda control: control.get("nope"), "ENOENT"),
            (lambda control: control.dump("nope"), "ENOENT"),
            (lambda control: control.get("pools/nope/kind"), "ENOENT"),
            (lambda control: control.set(("version", "2")), "EACCES"),
            (lambda control: control.set(("params/limit", "many")), "EINVAL"),
            (lambda control: control.set(("pools/create", "name=.x")), "EINVAL"),
            (lambda control: control.set(("pools/create", "kind=persistent")), "EINVAL"),
        ],
    )
    def test_refusals(self, control: ControlClient, ask: Callable[[ControlClient], object], name: str) -> None:
        with pytest.raises(Refused) as caught:
            ask(control)
        assert caught.value.name == name
        assert control.get("abi") == str(ABI)

    def test_every_value_is_described(self, control: ControlClient) -> None:
        control.set(("pools/create", "name=NAME kind=persistent"))
        described = {node.path: node for node in control.describe()}
        for path in control.dump():
            assert described[path].meaning, path

    def test_many_pools_make_a_long_answer(self, control: ControlClient) -> None:
        for index in range(200):
            control.set(("pools/create", f"name=p{index} kind=ephemeral"))
        pools = {name for name in control.list("pools") if name.endswith("/")}
        assert pools == {f"p{index}/" for index in range(200)}
        assert len([path for path in control.dump() if path.endswith("/kind")]) == 200

    def test_a_daemon_that_dies_ends_the_client(self, daemon: Daemon, control: ControlClient) -> None:
        os.kill(daemon.pid, signal.SIGKILL)
        with pytest.raises(ZcacheError):
            list(map(control.get, ["version"] * 1000))
