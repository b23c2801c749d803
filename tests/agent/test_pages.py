# SPDX-License-Identifier: Apache-2.0
"""The data plane's client: its bytes, its parser against any bytes, and the real daemon behind it."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.conftest import Result
from tests.support import ROOT, pause
from zcache_agent.daemon import Daemon, find
from zcache_agent.errors import DaemonAbsent, NoDevice, ProtocolError, Refused, ZcacheError
from zcache_agent.pages import (
    ABI,
    ANSWER,
    DICTIONARY,
    ENOENT,
    HELLO,
    KEY,
    MAGIC,
    MAX_BATCH,
    MAX_DICTIONARY,
    MAX_PAYLOAD,
    POOL,
    REQUEST,
    RESULT,
    Answer,
    Flag,
    Hello,
    Key,
    Kind,
    Op,
    PagesClient,
    Pool,
    Refusal,
    Request,
    Results,
    Run,
)
from zcache_agent.transport.base import SocketStream
from zcache_agent.transport.local import LocalTransport

NATIVE = ROOT / "native"
PAGE = 4096


def answer(op: Op, request_id: int, payload: bytes = b"", *, status: int = 0, count: int = 0) -> bytes:
    header = ANSWER.pack(MAGIC, ABI, op, request_id, status, count, 1000, len(payload), 0)
    return header + payload


def hello(page_size: int = PAGE, max_batch: int = 1024, max_payload: int = MAX_PAYLOAD) -> bytes:
    return answer(Op.HELLO, 1, HELLO.pack(ABI, page_size, max_batch, max_payload, b"0.1.0"))


class Scripted:
    """A stream that answers with bytes given beforehand: for faults that the real daemon never makes."""

    unix = None

    def __init__(self, answers: bytes) -> None:
        self.answers = answers
        self.sent = b""

    def read(self, size: int) -> bytes:
        taken, self.answers = self.answers[:size], self.answers[size:]
        return taken

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.answers = b""


def client(*answers: bytes) -> PagesClient:
    return PagesClient(Scripted(hello() + b"".join(answers)))


def test_the_header_says_the_same() -> None:
    """Every number that the client has of its own stands in proto.h or store.h too."""
    header = (NATIVE / "include/zcache/proto.h").read_text()
    store = (NATIVE / "include/zcache/store.h").read_text()
    for op in Op:
        assert f"ZC_OP_{op.name} = {op.value}," in header
    for flag in Flag:
        assert f"#define ZC_F_{flag.name} {flag.value}u" in header
    for refusal in Refusal:
        assert f"ZC_{refusal.name.upper()} = {refusal.value}," in store
    assert f"ZC_REFUSALS = {len(Refusal) + 1}," in store
    assert f"#define ZC_MAGIC {MAGIC:#x}u" in header
    assert f"#define ZC_ABI {ABI}u" in header
    assert f"#define ZC_MAX_BATCH {MAX_BATCH}u" in header
    assert f"#define ZC_MAX_PAYLOAD ({MAX_PAYLOAD >> 20}u * 1024 * 1024)" in header
    assert f"#define ZC_MAX_DICTIONARY ({MAX_DICTIONARY >> 10}u * 1024)" in header
    structures = {
        "zc_request": REQUEST,
        "zc_answer": ANSWER,
        "zc_wire_key": KEY,
        "zc_result": RESULT,
        "zc_hello": HELLO,
        "zc_wire_pool": POOL,
        "zc_wire_dictionary": DICTIONARY,
    }
    for name, layout in structures.items():
        found = re.search(rf"struct {name} \{{(.*?)\n\}};", header, re.DOTALL)
        assert found, name
        kinds = re.findall(r"^\s+(u?int\d+_t|char) \w+(?:\[(\d+)\])?;", found[1], re.MULTILINE)
        codes = {"uint64_t": "Q", "uint32_t": "I", "int32_t": "i", "uint16_t": "H", "char": "s"}
        assert layout.format == "<" + "".join(size + codes[kind] for kind, size in kinds), name


@given(data=st.binary(min_size=ANSWER.size, max_size=ANSWER.size))
def test_any_header_parses_or_is_a_named_error(data: bytes) -> None:
    with suppress(ProtocolError):
        Answer.parse(data)


REQUESTS = st.builds(
    Request,
    st.sampled_from([Op.PUT, Op.GET, Op.FLUSH_PAGE, Op.FLUSH_OBJECT, Op.DESTROY_POOL]),
    count=st.integers(1, 4),
    flags=st.sampled_from([Flag(0), Flag.PEEK]),
)


@given(
    request=REQUESTS,
    count=st.integers(0, 5),
    entries=st.lists(st.tuples(st.sampled_from([0, 0, 4, -2]), st.integers(0, PAGE)), max_size=5),
    extra=st.sampled_from([0, 1, 512, 1024, 1536]),
)
def test_any_results_parse_exactly_or_are_a_named_error(
    request: Request, count: int, entries: list[tuple[int, int]], extra: int
) -> None:
    payload = b"".join(RESULT.pack(*entry) for entry in entries) + bytes(extra)
    header = Answer(request.op, 1, 0, count, 0, len(payload))
    try:
        results = Results.parse(request, header, payload, 512, memoryview(b""))
    except ProtocolError:
        return
    assert len(results.status) == len(results.detail) == request.count == count
    if request.op == Op.GET:
        assert [page is not None for page in results.pages] == [s == 0 for s in results.status]
        assert {len(page) for page in results.pages if page is not None} <= {512}
        assert len(payload) == count * RESULT.size + 512 * results.status.count(0)
    else:
        assert len(payload) == count * RESULT.size


@given(data=st.binary(max_size=300), op=st.sampled_from(list(Op)))
def test_a_daemon_that_sends_anything_is_a_named_error(data: bytes, op: Op) -> None:
    """Garbage, and garbage behind a good header."""
    for stream in (data, answer(op, 2, data), answer(Op.PUT, 2, data, count=1)):
        with client(stream) as there:
            try:
                there.put(Run(1, 2, 3, 1), [bytes(PAGE)])
            except ZcacheError:
                continue
            assert len(data) == RESULT.size


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (hello(page_size=0), "pages are 0 bytes"),
        (hello(page_size=5000), "pages are 5000 bytes"),
        (hello(max_batch=0), "limits are 0 pages"),
        (answer(Op.HELLO, 1, b"short"), "5 bytes instead of 48"),
        (answer(Op.HELLO, 2), "request 2"),
        (answer(Op.POOL, 1), "op 2"),
        (ANSWER.pack(MAGIC, 9, 1, 1, 0, 0, 0, 0, 0), "ABI 9"),
        (ANSWER.pack(MAGIC, ABI, 1, 1, 0, 0, 0, 1 << 30, 0), "1073741824 bytes"),
        (hello() + answer(Op.DICTIONARY, 2, b"short"), "5 bytes instead of 8"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "begins with"),
    ],
)
def test_protocol_errors_are_named(answers: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        PagesClient(Scripted(answers)).load_dictionary(b"a dictionary")


def test_a_refusal_carries_the_daemons_words() -> None:
    refused = answer(Op.POOL, 2, b"no pool 'x'", status=-2)
    with client(refused) as there, pytest.raises(Refused, match="no pool 'x'") as caught:
        there.pool("x")
    assert caught.value.name == "ENOENT"


def test_the_window_bounds_what_is_in_flight() -> None:
    ok = RESULT.pack(0, 1)
    stream = Scripted(hello() + b"".join(answer(Op.PUT, n, ok, count=1) for n in range(2, 12)))
    there = PagesClient(stream, window=2)
    begun = [there.start_put(Run(1, 1, n, 1), [bytes(PAGE)]) for n in range(10)]
    assert [pending.answer is None for pending in begun] == [False] * 8 + [True] * 2
    assert [there.finish(pending).detail for pending in begun] == [(1,)] * 10


def test_no_large_request_goes_out_while_a_page_is_due() -> None:
    page = RESULT.pack(0, 0) + bytes(PAGE)
    there = client(answer(Op.GET, 2, page, count=1), answer(Op.PUT, 3, RESULT.pack(0, 1), count=1))
    get = there.start_get(Run(1, 1, 0, 1))
    there.start_put(Run(1, 1, 0, 2), [bytes(PAGE)] * 2)
    assert get.answer is not None


def test_wrong_page_sizes_are_caught_here() -> None:
    with client() as there, pytest.raises(ValueError, match="100 bytes"):
        there.put(Run(1, 1, 0, 1), [bytes(100)])


def golden(name: str) -> dict[str, bytes]:
    lines = (ROOT / f"tests/golden/{name}.txt").read_text().splitlines()
    return {key: bytes.fromhex(value) for key, value in (line.split() for line in lines)}


def test_each_op_sends_and_understands_the_golden_bytes() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"".join(golden("answers").values()))
    page = b"\xab" * PAGE
    with theirs, PagesClient(SocketStream(ours, "golden", 5, unix=True), window=1, batch=2) as there:
        assert there.hello == Hello(1, PAGE, 1024, MAX_PAYLOAD, "0.1.0")
        assert there.pool("golden") == Pool(1, Kind.persistent)
        there.share_memory()
        segment, there._segment = there._segment, None
        assert there.put(Run(1, 9, 7, 1), [page]) == Results((0,), (0,), 0)
        there._segment = segment
        assert there.put(Run(1, 9, 8, 2), [b"one page" * 512, page]).detail == (0, 31)
        assert there.put(Run(1, 9, 8, 1), [b"one page" * 512], inactive=True).status == (0,)
        there._segment = None
        assert there.get(Run(1, 9, 7, 1), peek=True).pages == (page,)
        there._segment = segment
        assert there.get(Run(1, 9, 7, 2)).pages == (b"one page" * 512, page)  # as the put left it
        there.start_recording("golden", 64, ["lz4", "zstd:9*4"])
        keys = [Key(0x1122334455667788, 0x99AABBCC, 1), Key(5, 6, 2)]
        assert there.flush_page(keys).status == (-ENOENT, -ENOENT)
        assert there.flush_object(Run(1, 9, 0, 1)).detail == (3,)
        assert there.destroy_pool(Run(1, 0, 0, 1)).status == (0,)
        assert there.load_dictionary(b"a dictionary") == 1
        expected = b"".join(golden("requests").values())
        received = b""
        while len(received) < len(expected):
            received += theirs.recv(len(expected) - len(received))
        assert received == expected


# --- the real daemon ----------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(local_daemon: Callable[..., Result], tmp_path: Path) -> Daemon:
    assert local_daemon("pool", "create", "p").code == 0
    assert local_daemon("pool", "create", "e", "--kind", "ephemeral").code == 0
    return find(LocalTransport(str(tmp_path / "zcache")))


@pytest.fixture(params=["segment", "inline", "bridge"])
def there(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[PagesClient]:
    """A client in each of the ways in which pages travel."""
    stream = daemon.open("data")
    if request.param == "bridge":
        stream.close()
        bridge = [daemon.program, "bridge", "data", "--dir", daemon.directory]
        stream = daemon.transport.open_command(bridge)
    with PagesClient(stream) as client:
        if request.param == "segment":
            client.share_memory()
        yield client


def page(number: int) -> bytes:
    return (b"number %d, " % number * PAGE)[:PAGE]


def test_every_op(there: PagesClient) -> None:
    assert there.hello.page_size == PAGE
    pool, ephemeral = there.pool("p"), there.pool("e")
    assert (pool.kind, ephemeral.kind) == (Kind.persistent, Kind.ephemeral)
    pages = [page(0), bytes(PAGE), os.urandom(PAGE)]
    put = there.put(Run(pool.id, 1, 10, 3), pages)
    assert put.status == (0, 0, Refusal.compress_poor)
    assert put.detail[0] > 0
    assert put.detail[1] == 0
    got = there.get(Run(pool.id, 1, 9, 4))
    assert got.status == (-ENOENT, 0, 0, -ENOENT)
    assert got.pages == (None, pages[0], pages[1], None)
    assert there.flush_page(Run(pool.id, 1, 10, 2)).status == (0, 0)
    assert there.flush_page(Run(pool.id, 1, 10, 2)).status == (-ENOENT, -ENOENT)

    keys = [Key(2**64 - 1, 2**32 - 1, pool.id), Key(5, 6, ephemeral.id)]
    assert there.put(keys, [page(1), page(2)]).status == (0, 0)
    assert there.get(keys, peek=True).pages == (page(1), page(2))
    assert there.get(keys).pages == (page(1), page(2))
    assert there.get(keys).pages == (page(1), None), "an ephemeral get takes the page away"
    assert there.flush_object([Key(2**64 - 1, 0, pool.id), Key(7, 0, pool.id)]).detail == (1, 0)
    assert there.put(Run(pool.id, 3, 0, 2), [page(3), page(4)]).status == (0, 0)
    assert there.destroy_pool([Key(0, 0, pool.id)]).detail == (2,)
    with pytest.raises(Refused, match="p"):
        there.pool("p")


def test_a_dictionary_has_one_number(there: PagesClient) -> None:
    first = there.load_dictionary(b"some bytes to compress against")
    assert there.load_dictionary(b"others") == first + 1
    assert there.load_dictionary(b"some bytes to compress against") == first
    assert there.load_dictionary(bytes(MAX_DICTIONARY)) == first + 2
    for data in (b"", bytes(MAX_DICTIONARY + 1), bytes(MAX_PAYLOAD + 1)):
        with pytest.raises(Refused, match=rf"{MAX_DICTIONARY} bytes, not {len(data)}$") as caught:
            there.load_dictionary(data)
        assert caught.value.name == "EINVAL"
    assert there.load_dictionary(b"others") == first + 1, "the connection goes on"


def test_batches_one_after_another_keep_their_order(there: PagesClient) -> None:
    pool = there.pool("p")
    runs = [Run(pool.id, 1, start, there.batch) for start in range(0, 20 * there.batch, there.batch)]
    puts = [there.start_put(run, [page(run.index + i) for i in range(run.count)]) for run in runs]
    assert {status for put in puts for status in there.finish(put).status} == {0}
    gets = [there.start_get(run) for run in runs]
    for run, get in zip(runs, gets, strict=True):
        assert there.finish(get).pages == tuple(page(run.index + i) for i in range(run.count))


def test_puts_and_gets_mixed_do_not_wait_for_each_other(there: PagesClient) -> None:
    pool = there.pool("p")
    there.put(Run(pool.id, 1, 0, 32), [page(i) for i in range(32)])
    begun = []
    for _ in range(50):
        begun.append(there.start_get(Run(pool.id, 1, 0, 32)))
        begun.append(there.start_put(Run(pool.id, 2, 0, 32), [page(i) for i in range(32)]))
    assert {status for pending in begun for status in there.finish(pending).status} == {0}


def test_the_daemons_refusals_are_named(there: PagesClient) -> None:
    with pytest.raises(Refused, match="nopool") as caught:
        there.pool("nopool")
    assert caught.value.name == "ENOENT"
    missing = there.get([Key(1, 1, 99)])
    assert missing.status == (-ENOENT,)
    assert there.pool("p").kind == Kind.persistent, "the connection goes on"


def test_a_daemon_that_does_not_answer_ends_within_the_deadline(daemon: Daemon) -> None:
    hasty = find(LocalTransport(daemon.directory, timeout=0.5))
    with PagesClient(hasty.open("data")) as client:
        pause(daemon.pid)
        try:
            with pytest.raises(NoDevice, match="no answer within"):
                client.pool("p")
        finally:
            os.kill(daemon.pid, signal.SIGCONT)


def test_a_daemon_that_dies_is_named(daemon: Daemon) -> None:
    with PagesClient(daemon.open("data")) as client:
        os.kill(daemon.pid, signal.SIGKILL)
        with pytest.raises((DaemonAbsent, NoDevice), match=r"ended|broke"):
            client.pool("p")
