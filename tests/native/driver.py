# SPDX-License-Identifier: Apache-2.0
"""zc_driver as a child, and the pages it makes of a content's description."""

import subprocess
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Self

from tests.support import BUILD, require_or_skip

_WORD = (1 << 64) - 1
_HALVES = 0x0F0F0F0F0F0F0F0F
CONFIGS = ["host", "host-asan", "host-tsan"]


def program(config: str, name: str = "zc_driver") -> Path:
    path = BUILD / config / name
    if not path.exists():
        reason = f"{path.relative_to(BUILD)} is not built"
        require_or_skip("sanitizers", reason)
    return path


class Driver:
    def __init__(self, config: str, page_size: int, *store: object) -> None:
        self._process = subprocess.Popen([program(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.page_size = page_size
        self.log: list[tuple[str, str]] = []
        """Requests and answers; a batch is one request of several lines."""
        assert self.ask("store", page_size, *store) == "ok"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, *words: object) -> str:
        request = " ".join(str(word) for word in words)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer.endswith("\n"), f"the driver ended at {request!r}"
        self.log.append((request, answer.rstrip()))
        return answer.rstrip()

    def batch(self, command: str, pool: str, entries: list[str]) -> list[str]:
        return self.ask("\n".join([f"{command} {pool}", *entries, "end"])).split(", ")

    def stats(self, pool: str) -> dict[str, int]:
        return _numbers(self.ask("stats", pool))

    def totals(self) -> dict[str, int]:
        return _numbers(self.ask("totals"))

    def used(self) -> tuple[int, int]:
        """Bytes: what the store says, what the OS says."""
        used = _numbers(self.ask("used"))
        return used["store"], used["os"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self.ended()

    def ended(self) -> int:
        """Its status."""
        self._process.communicate(timeout=120)
        return self._process.returncode

    def close(self) -> None:
        """Ends it in good order: a sanitizer's complaint, or a page that was not freed, is an error here."""
        self._process.communicate(timeout=120)
        assert self._process.returncode == 0


def _numbers(answer: str) -> dict[str, int]:
    return {name: int(value) for name, value in (pair.split("=") for pair in answer.split())}


def mix64(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & _WORD
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31


@lru_cache(maxsize=4096)
def page(content: str, page_size: int) -> bytes:
    kind, *numbers = content.split(":")
    if kind == "fill":
        return int(numbers[0]).to_bytes(8, "little") * (page_size // 8)
    seed, length = int(numbers[0]), min(int(numbers[1]), page_size)
    words = (mix64(seed * 0x9E3779B97F4A7C15 + i & _WORD) for i in range(0, length, 8))
    if kind == "half":
        words = (word & _HALVES for word in words)
    return b"".join(word.to_bytes(8, "little") for word in words)[:length].ljust(page_size, b"\0")


@lru_cache(maxsize=4096)
def same_filled(content: str, page_size: int) -> bool:
    bytes_ = page(content, page_size)
    return bytes_ == bytes_[:8] * (page_size // 8)


@lru_cache(maxsize=4096)
def crc(content: str, page_size: int) -> int:
    return zlib.crc32(page(content, page_size))
