# SPDX-License-Identifier: Apache-2.0
"""A database: Redis, filled with the records of a shop."""

import json
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from bench.errors import BenchError

from .process import GROW_S, started
from .prose import articles, words

CUSTOMERS, ORDERS, SESSIONS, ARTICLES = 50_000, 80_000, 40_000, 3_000
BATCH = 1000
REQUESTS, AGAIN, WRITES, SKEW = 400_000, 5, 10, 7
"""So many, 5 times. Every 10th is a write; half of all are for a 128th of the orders, the newest."""


@contextmanager
def running() -> Iterator[list[int]]:
    with _filled(()) as (process, _):
        yield [process.pid]


@contextmanager
def at_work(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    requests = _requests()
    with _filled(groups) as (_, connection):

        def work() -> None:
            for batch in requests * AGAIN:
                _ask(connection, batch)

        yield work


@contextmanager
def _filled(groups: Sequence[Path]) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "socket"
        settings = {"port": "0", "unixsocket": str(path), "dir": directory, "save": "", "appendonly": "no"}
        command = ["redis-server", *(word for name, value in settings.items() for word in (f"--{name}", value))]
        # Debian's package redis-tools has the server under this name, without the service that
        # redis-server starts; it is a server when it is called one.
        with (
            started(command, executable="redis-check-rdb", groups=groups) as process,
            _connected(process, path) as connection,
        ):
            for batch in _records():
                _send(connection, batch)
            yield process, connection


@contextmanager
def _connected(process: subprocess.Popen[str], path: Path) -> Iterator[socket.socket]:
    deadline = time.monotonic() + GROW_S
    with socket.socket(socket.AF_UNIX) as connection:
        while True:
            try:
                connection.connect(str(path))
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"redis-server: does not listen: {error.strerror}") from error
                time.sleep(0.1)
        yield connection


@cache
def _records() -> list[list[bytes]]:
    return _batches(_commands())


@cache
def _requests() -> list[list[bytes]]:
    return _batches(_asked())


def _batches(commands: Iterator[list[str]]) -> list[list[bytes]]:
    encoded = [_encode(command) for command in commands]
    return [encoded[at : at + BATCH] for at in range(0, len(encoded), BATCH)]


def _encode(command: list[str]) -> bytes:
    parts = [word.encode() for word in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _send(connection: socket.socket, batch: list[bytes]) -> None:
    """Each command is one whose answer is one line."""
    connection.sendall(b"".join(batch))
    answers = b""
    while answers.count(b"\r\n") < len(batch):
        part = connection.recv(1 << 16)
        if not part or b"-ERR" in part or b"-OOM" in part:
            raise BenchError(f"redis-server: refuses a record: {part.decode(errors='replace').strip()}")
        answers += part


def _ask(connection: socket.socket, batch: list[bytes]) -> None:
    """Whatever the answers, that to the last command, one more, is known."""
    connection.sendall(b"".join([*batch, _encode(["PING"])]))
    end = b""
    while not end.endswith(b"+PONG\r\n"):
        part = connection.recv(1 << 16)
        if not part:
            raise BenchError("redis-server: has closed the connection")
        end = (end + part)[-16:]


def _asked() -> Iterator[list[str]]:
    rng = random.Random(11)  # noqa: S311 the same requests every time
    for number in range(REQUESTS):
        key = f"order:{ORDERS - 1 - int(ORDERS * rng.random() ** SKEW)}"
        if number % WRITES:
            yield ["GET", key]
        else:
            yield ["SET", key, json.dumps({"at": number, "note": "x" * rng.randrange(400)})]


def _commands() -> Iterator[list[str]]:
    rng = random.Random(7)  # noqa: S311 the same records every time
    names = words()
    for number in range(CUSTOMERS):
        first, last = rng.choice(names).title(), rng.choice(names).title()
        yield ["HSET", f"customer:{number}", "name", f"{first} {last}", "mail", f"{first}.{last}@example.org".lower()]
        yield ["HSET", f"customer:{number}", "city", rng.choice(names).title(), "points", str(rng.randrange(5000))]
        yield ["ZADD", "customers:by-points", str(rng.randrange(5000)), f"customer:{number}"]
    for number in range(ORDERS):
        lines = [
            {
                "sku": f"{rng.choice(names)}-{rng.randrange(1000)}",
                "count": rng.randint(1, 5),
                "cents": rng.randrange(9999),
            }
            for _ in range(rng.randint(1, 6))
        ]
        customer = rng.randrange(CUSTOMERS)
        at = 1_700_000_000 + number * 37 + rng.randrange(37)
        order = {
            "id": number,
            "customer": customer,
            "at": at,
            "lines": lines,
            "note": " ".join(rng.choices(names, k=5)),
        }
        yield ["SET", f"order:{number}", json.dumps(order)]
        yield ["RPUSH", f"orders-of:{customer}", str(number)]
    for _ in range(SESSIONS):
        yield ["SET", f"session:{rng.getrandbits(128):032x}", f"{rng.randrange(CUSTOMERS)}:{rng.getrandbits(64)}"]
    texts = [paragraph for paragraphs in articles().values() for paragraph in paragraphs]
    for number in range(ARTICLES):
        yield ["SET", f"article:{number}", "\n\n".join(rng.sample(texts, 8))]
