# SPDX-License-Identifier: Apache-2.0
"""The control plane: requests, answers, and what a hostile client may send."""

import random
import socket
import time

import pytest

from tests.daemon.conftest import PUT, Daemon
from tests.support import CODECS

MAX = 4096


def test_values_lists_and_descriptions(daemon: Daemon) -> None:
    daemon.pool("swap")
    assert daemon.ask("get pools/swap/kind") == "OK 11\npersistent\n"
    assert daemon.ask("list /").splitlines()[1:] == [
        "version", "abi", "uptime_ms", "daemon/", "page_size", "params/", "stats/", "pools/", "allocators/", "codecs",
        "dictionaries/", "check", "swap/", "blockcache/",
    ]  # fmt: skip
    assert daemon.ask("list pools") == "OK 13\ncreate\nswap/\n"
    assert daemon.ask("list pools/") == daemon.ask("list /pools")
    dump = daemon.ask("dump pools/swap/params")
    assert "pools/swap/params/zv_max_zsize=3584\n" in dump
    assert "pools/NAME/stats/puts\tuint\tr\tputs\t\t\t" in daemon.ask("describe")
    assert "pools/swap/stats/puts\tuint\tr\tputs\t\t\t" in daemon.ask("describe pools/swap")


def test_every_node_is_described(daemon: Daemon) -> None:
    daemon.pool("swap")
    described = [line.split("\t") for line in daemon.ask("describe").splitlines()[1:]]
    for path, kind, access, _, allowed, default, meaning in described:
        assert path
        assert kind in {"uint", "bytes", "percent", "bool", "text", "table", "action"}
        assert meaning, path
        assert meaning == meaning.strip()
        if "w" in access:
            assert allowed, path
        if access == "rw":
            assert default, path
    there = {line.split("=")[0].replace("pools/swap", "pools/NAME") for line in daemon.ask("dump").splitlines()[1:]}
    assert there <= {fields[0] for fields in described}


def test_set_is_all_or_none(daemon: Daemon) -> None:
    daemon.pool("a")
    both = "set pools/a/params/zv_max_zsize {} pools/a/params/zv_max_mean_zsize {}"
    assert daemon.ask(both.format("2000", "1/2")) == "OK 0\n"
    assert daemon.ask(both.format("1000", "9999")).startswith("ERR ERANGE zv_max_mean_zsize: '9999' is out of range")
    assert daemon.ask("get pools/a/params/zv_max_zsize") == "OK 5\n2000\n"
    assert daemon.ask("get pools/a/params/zv_max_mean_zsize") == "OK 5\n2048\n"
    assert daemon.ask("set params/reserve 7 pools/a/destroy 1").startswith("ERR EINVAL an action stands alone")
    assert daemon.ask('set pools/create "name=b kind=ephemeral"') == "OK 0\n"
    assert daemon.ask("set pools/b/destroy 1") == "OK 0\n"
    assert daemon.ask("list pools/b").startswith("ERR ENOENT")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("", "EINVAL"), ("fly", "EINVAL"), ("get", "EINVAL"), ("get a b", "EINVAL"), ("get nothing", "ENOENT"),
        ("get pools", "EISDIR"), ("get /", "EISDIR"), ("get pools/create", "EACCES"), ("get abi/", "ENOENT"),
        ("get abi/x", "ENOENT"), ("get //abi", "ENOENT"), ("get ..", "ENOENT"), ("get pools/../abi", "ENOENT"),
        ("set abi 2", "EACCES"), ("set params/limit", "EINVAL"), ('set params/limit "1', "EINVAL"),
        ("set pools 1", "EACCES"), ("set pools/create name=x", "EINVAL"), ("list abi", "ENOTDIR"),
        ("set pools/create name=x kind=liquid", "EINVAL"), ("set pools/create name=.x kind=ephemeral", "EINVAL"),
        ("set pools/create name=x kind=ephemeral codec=zip", "EINVAL"),
        ("set pools/create name= kind=ephemeral", "EINVAL"),
        ("set pools/create name=x kind=ephemeral size=3", "EINVAL"),
        ("set pools/create name=a/b kind=ephemeral", "EINVAL"),
        ("get abi\t", "EINVAL"), ("get \x00", "EINVAL"), ("get ü", "EINVAL"), ("get \x1b[2J", "EINVAL"),
        ("set params/limit 1", "ERANGE"), ("set params/limit 99999999999999999999", "EINVAL"),
        ("set params/reserve 99999999999", "ERANGE"), ("describe nowhere", "ENOENT"), ("dump nowhere", "ENOENT"),
        ("get " + "a/" * 1000, "ENOENT"), ("get " + "a" * 4000, "ENOENT"),
    ],
)  # fmt: skip
def test_bad_requests_get_a_named_error_on_one_line(daemon: Daemon, line: str, error: str) -> None:
    before = daemon.ask("dump params")
    said = daemon.ask(line)
    assert said.startswith(f"ERR {error} ")
    assert said.count("\n") == 1
    assert said.isascii()
    assert daemon.ask("dump params") == before


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("zip", f"not one of {CODECS}"), ('""', f"not one of {CODECS}"), ("zstd:20", "-5..19 without 0"),
        ("zstd:-6", "-5..19"), ("zstd:0", "-5..19"), ("zstd:fast", "-5..19"), ("zstd:3x", "-5..19"),
        ("zstd:99999999999", "-5..19"), ("lz4:0", "1..65537"), ("lz4:65538", "1..65537"), ("lz4:-1", "1..65537"),
        ("none:1", "takes no level"), ("lz4:dict=1", "lz4 takes no dictionary"), ("none:dict=1", "takes no dictionary"),
        ("zstd:dict=9", "no such dictionary"), ("zstd:dict=", "a whole number"), ("zstd:dict=x", "a whole number"),
        ("zstd:dict=99999999999", "a whole number"), ("zstd:dict=-1", "a whole number"),
        ("zstd:1:3", "not NAME[:LEVEL][:dict=ID]"), ("zstd:1:dict=1:2", "a whole number"), ("LZ4", "not one of"),
        ("lz4:", "1..65537"), ('"lz4 zstd"', "not one of"),
    ],
)  # fmt: skip
def test_a_codec_that_is_none(daemon: Daemon, spec: str, said: str) -> None:
    daemon.pool("a")
    error = "ENOENT" if said == "no such dictionary" else "EINVAL"
    asked = [f"set pools/a/codec {spec}"]
    if '"' not in spec:
        asked.append(f"set pools/create name=b kind=ephemeral codec={spec}")
    for line in asked:
        refused = daemon.ask(line)
        assert refused.startswith(f"ERR {error} codec '{spec.strip(chr(34))}': ")
        assert said in refused
        assert refused.count("\n") == 1
    assert daemon.ask("get pools/a/codec") == "OK 4\nlz4\n"
    assert daemon.ask("list pools") == "OK 10\ncreate\na/\n"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("set pools/a/shrink 1", "EPERM shrink: pool 'a' is persistent"), ("set pools/e/shrink 0", "ERANGE"),
        ("set pools/e/shrink -1", "EINVAL"), ("set pools/e/shrink 1.5", "EINVAL"), ("set pools/e/shrink x", "EINVAL"),
        ("set pools/e/shrink 99999999999999999999", "EINVAL"), ("set pools/a/compact 2", "EINVAL"),
        ("set pools/a/compact yes", "EINVAL"), ("get pools/a/compact", "EACCES"), ("get pools/e/shrink", "EACCES"),
        ("set pools/n/compact 1", "ENOENT"), ("set check 1", "EACCES"), ("set codecs lz5", "EACCES"),
        ("set pools/a/allocator zsmalloc", "EACCES"),
        ("set pools/create name=x kind=ephemeral allocator=buddy", "EINVAL"),
        ("set dictionaries/remove 1", "ENOENT remove: there is no dictionary 1"),
        ("set dictionaries/remove x", "EINVAL"),
        ("set dictionaries/remove 4294967296", "EINVAL"), ("get dictionaries/1/size", "ENOENT"),
        ("set pools/a/params/checksums 2", "ERANGE"), ("set pools/a/params/entropy_gate 8001", "ERANGE"),
        ("set pools/a/params/compact_auto maybe", "EINVAL"),
    ],
)  # fmt: skip
def test_actions_that_cannot_be(daemon: Daemon, line: str, error: str) -> None:
    daemon.pool("a")
    daemon.pool("e", "ephemeral")
    said = daemon.ask(line)
    assert said.startswith(f"ERR {error}")
    assert said.count("\n") == 1
    assert daemon.ask("get check") == "OK 3\nok\n"


def test_a_pool_twice_is_refused(daemon: Daemon) -> None:
    daemon.pool("a")
    assert daemon.ask("set pools/create name=a kind=persistent") == "ERR EEXIST pool 'a' exists already\n"


def test_lines_up_to_the_limit(daemon: Daemon) -> None:
    assert daemon.ask("get " + "a" * (MAX - 5)).startswith("ERR ENOENT ")
    assert daemon.ask("get " + "a" * (MAX - 4)).startswith("ERR E2BIG ")
    with daemon.connect("control") as sock:
        sock.sendall(b"a" * MAX)
        assert sock.recv(4096).startswith(b"ERR E2BIG ")
        sock.sendall(b"a" * 3 * MAX + b"\nget abi\n")  # the rest of that line, then the next
        assert sock.recv(4096) == b"OK 2\n1\n"


def test_an_idle_connection_stays_and_a_started_request_must_end(host_daemon: Daemon) -> None:
    with host_daemon.connect("control") as idle, host_daemon.connect("control") as slow:
        slow.sendall(b"get ab")
        began = time.monotonic()
        assert slow.recv(1) == b""
        assert time.monotonic() - began > 4
        idle.sendall(b"get abi\n")
        assert idle.recv(100) == b"OK 2\n1\n"


def test_more_connections_than_allowed_are_closed(host_daemon: Daemon) -> None:
    open_ones = [host_daemon.connect("control") for _ in range(64)]
    for sock in open_ones:
        sock.sendall(b"get abi\n")
        assert sock.recv(100) == b"OK 2\n1\n"
    with host_daemon.connect("control") as extra:
        assert extra.recv(1) == b""
    for sock in open_ones:
        sock.close()


def test_answers_that_nobody_reads_do_not_grow_the_daemon(host_daemon: Daemon) -> None:
    before = host_daemon.resident()
    with host_daemon.connect("control") as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.sendall(b"describe\n" * 10_000_000)
        assert host_daemon.resident() - before < 2 * 1024 * 1024


def test_garbage(daemon: Daemon) -> None:
    rand = random.Random(3)
    for size in (1, 100, 5000, 100_000):
        with daemon.connect("control") as sock:
            try:
                sock.sendall(rand.randbytes(size))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass
    assert daemon.alive()


def test_size_classes_are_shown_and_add_up(daemon: Daemon) -> None:
    before = daemon.ask("get allocators/zsmalloc/classes").splitlines()[1:]
    assert before[0].split()[:2] == ["class", "size"]
    assert before[1].split() == ["total", *["0"] * 13]
    daemon.ask("set pools/create name=dense kind=persistent allocator=zsmalloc")
    pool, page_size = int(daemon.ask("get pools/dense/id").split()[2]), daemon.page_size()
    for i in range(100):
        daemon.call(PUT, bytes(range(i, i + 16)) * (page_size // 16), pool=pool, object=1, index=i, count=1)
    heading, *classes, total = (line.split() for line in daemon.ask("get allocators/zsmalloc/classes").splitlines()[1:])
    assert len(heading) == 16
    assert sum(int(line[12]) for line in classes) == int(total[11]) == 100
