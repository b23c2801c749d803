# SPDX-License-Identifier: Apache-2.0
"""A compressed heap in this Python process: memory whose cold pages are kept compressed, by libzcache.

    with Heap(budget=64 << 20) as heap, heap.map(1 << 30) as memory:
        memory[:5] = b"hello"

docs/heap.md says how it differs from other memory. What Python hands to a system call (`readinto`, `sendall`, …)
has to be pinned first: `Region.pin()`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_size_t, c_uint, c_uint64, c_void_p
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self

from . import __version__
from .errors import ZcacheError
from .library import NoLibrary as NoLibrary
from .library import load

Faults = Literal["thread", "sigbus"]
"""Who brings a page back that is touched: a thread of the heap's, or, faster, a handler of SIGBUS in the thread that
touched it."""

_BUNDLED = Path(__file__).parent / "_bin" / "host" / "libzcache.so"
_FAULTS: dict[str, int] = {"thread": 0, "sigbus": 1}


class HeapFailed(ZcacheError):
    """The heap cannot do that; `name` is the error's, e.g. EPERM."""

    default_name = "heap_failed"


@dataclass(frozen=True)
class Stats:
    """As `struct zc_heap_stats`."""

    mapped_bytes: int
    budget_bytes: int
    resident_pages: int
    waiting_pages: int
    stored_pages: int
    pinned_pages: int
    faults_new: int
    faults_waiting: int
    faults_stored: int
    faults_delegated: int
    read_ahead: int
    evicted: int
    refused: int
    lost: int


class _Stats(Structure):
    _fields_ = [(name, c_uint64) for name in Stats.__dataclass_fields__]


class _StoreConfig(Structure):
    _fields_ = [("page_size", c_uint), ("limit", c_uint64), ("proc_dir", c_char_p), ("cgroup_dir", c_char_p)]


class _PoolConfig(Structure):
    _fields_ = [("name", c_char_p), ("kind", c_int), ("allocator", c_char_p), ("codec", c_char_p)]


class _HeapConfig(Structure):
    _fields_ = [("budget", c_uint64), ("faults", c_int), ("without", c_uint), ("ahead", c_uint)]


# name → result, arguments
_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "zc_version": (c_char_p, []),
    "zc_store_create": (c_int, [POINTER(_StoreConfig), POINTER(c_void_p)]),
    "zc_store_destroy": (None, [c_void_p]),
    "zc_pool_create": (c_int, [c_void_p, POINTER(_PoolConfig), POINTER(c_void_p)]),
    "zc_pool_release": (None, [c_void_p]),
    "zc_heap_create": (c_int, [c_void_p, POINTER(_HeapConfig), POINTER(c_void_p), c_char_p, c_size_t]),
    "zc_heap_destroy": (None, [c_void_p]),
    "zc_heap_map": (c_int, [c_void_p, c_size_t, POINTER(c_void_p)]),
    "zc_heap_unmap": (c_int, [c_void_p, c_void_p]),
    "zc_heap_pin": (c_int, [c_void_p, c_void_p, c_size_t]),
    "zc_heap_unpin": (c_int, [c_void_p, c_void_p, c_size_t]),
    "zc_heap_evict": (c_int64, [c_void_p, c_void_p, c_size_t]),
    "zc_heap_prefetch": (c_int64, [c_void_p, c_void_p, c_size_t]),
    "zc_heap_set_budget": (None, [c_void_p, c_uint64]),
    "zc_heap_age": (c_int64, [c_void_p]),
    "zc_heap_get_stats": (None, [c_void_p, POINTER(_Stats)]),
}


def library_path() -> str:
    """Which libzcache is used: ZCACHE_LIBRARY, the one that came with the agent, or the system's."""
    named = os.environ.get("ZCACHE_LIBRARY")
    if named:
        return named
    found = str(_BUNDLED) if _BUNDLED.exists() else find_library("zcache")
    if not found:
        raise NoLibrary("libzcache.so: not found", hint="make build makes one; or name it: ZCACHE_LIBRARY=FILE")
    return found


@cache
def _load(path: str) -> CDLL:
    return load(
        path,
        _FUNCTIONS,
        __version__,
        hint="name a libzcache.so: ZCACHE_LIBRARY=FILE",
        version_hint="name one of the agent's version",
    )


def _checked(result: int, what: str, why: str = "") -> int:
    if result >= 0:
        return result
    raise HeapFailed(f"{what}: {why or os.strerror(-result)}", name=errno.errorcode.get(-result, str(-result)))


class _Native:
    """The store, its pool and the heap in it, from the first to the last of who uses them."""

    def __init__(self, budget: int, limit: int, codec: str, faults: Faults) -> None:
        self.library = _load(library_path())
        self._store, self._pool, self.heap = c_void_p(), c_void_p(), c_void_p()
        self.pid = os.getpid()
        try:
            self._create(budget, limit, codec, faults)
        except HeapFailed:
            self._destroy()
            raise

    def _create(self, budget: int, limit: int, codec: str, faults: Faults) -> None:
        store = _StoreConfig(limit=limit)
        pool = _PoolConfig(name=b"heap", allocator=b"zsmalloc", codec=codec.encode())
        heap = _HeapConfig(budget=budget, faults=_FAULTS[faults])
        why = ctypes.create_string_buffer(400)
        _checked(self.library.zc_store_create(byref(store), byref(self._store)), "store")
        _checked(self.library.zc_pool_create(self._store, byref(pool), byref(self._pool)), f"codec {codec!r}")
        _checked(
            self.library.zc_heap_create(self._pool, byref(heap), byref(self.heap), why, len(why)),
            "heap",
            why.value.decode(),
        )

    def _destroy(self) -> None:
        self.library.zc_heap_destroy(self.heap)
        if self._pool:
            self.library.zc_pool_release(self._pool)
        if self._store:
            self.library.zc_store_destroy(self._store)

    def __del__(self) -> None:
        if getattr(self, "heap", None) and os.getpid() == self.pid:
            self._destroy()

    def unmap(self, at: int) -> None:
        if os.getpid() == self.pid:
            self.library.zc_heap_unmap(self.heap, at)


class Region:
    """Memory of a heap. As a context manager it gives the memoryview. After `close()` the memory goes when the last
    view of it has gone."""

    def __init__(self, native: _Native, size: int) -> None:
        at = c_void_p()
        _checked(native.library.zc_heap_map(native.heap, size, byref(at)), f"{size} bytes")
        assert at.value
        memory = (ctypes.c_ubyte * size).from_address(at.value)
        # Views keep the array alive, the array what it lies in.
        weakref.finalize(memory, native.unmap, at.value).atexit = False
        self._native, self._at, self._size = native, at.value, size
        self._memory: memoryview | None = memoryview(memory).cast("B")

    @property
    def memory(self) -> memoryview:
        if self._memory is None:
            raise ValueError("the region is closed")
        return self._memory

    def close(self) -> None:
        if self._memory is not None:
            self._memory.release()
            self._memory = None

    def __enter__(self) -> memoryview:
        return self.memory

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._size

    def evict(self, start: int = 0, size: int | None = None) -> int:
        """Put pages away. Returns how many, with those of elsewhere that waited to be."""
        return self._call("evict", start, size)

    def prefetch(self, start: int = 0, size: int | None = None) -> int:
        """Bring pages back. Returns how many."""
        return self._call("prefetch", start, size)

    @contextmanager
    def pin(self, start: int = 0, size: int | None = None) -> Iterator[memoryview]:
        """Keep pages in memory, so that they can be handed to system calls. Gives a view of the range."""
        memory = self.memory[start:] if size is None else self.memory[start : start + size]
        self._call("pin", start, size)
        try:
            yield memory
        finally:
            memory.release()
            if self._memory is not None:
                self._call("unpin", start, size)

    def _call(self, what: str, start: int, size: int | None) -> int:
        size = len(self.memory) - start if size is None else size
        if start < 0 or size < 0 or start + size > self._size:
            raise ValueError(f"{what}: {size} bytes at {start}: the region has {self._size}")
        function = getattr(self._native.library, f"zc_heap_{what}")
        return _checked(function(self._native.heap, self._at + start, size), f"{what}: {size} bytes at {start}")


class Heap:
    """`budget`: bytes that stay in memory uncompressed, 0: all until `age()`, `Region.evict()` or another budget puts
    them away. `limit`: bytes of the pool that they go to, 0: a quarter of RAM. HeapFailed EPERM, ENOSYS: this
    system has no userfaultfd for it."""

    def __init__(self, budget: int = 0, *, limit: int = 0, codec: str = "lz4", faults: Faults = "thread") -> None:
        if budget < 0 or limit < 0:
            raise ValueError(f"budget {budget}, limit {limit}: bytes, or 0")
        if faults not in _FAULTS:
            raise ValueError(f"faults {faults!r}: one of {', '.join(_FAULTS)}")
        self._native: _Native | None = _Native(budget, limit, codec, faults)

    def _alive(self) -> _Native:
        if self._native is None:
            raise ValueError("the heap is closed")
        return self._native

    def map(self, size: int) -> Region:
        """New memory, all zeros."""
        if size <= 0:
            raise ValueError(f"{size} bytes: at least one")
        return Region(self._alive(), size)

    def set_budget(self, budget: int) -> None:
        if budget < 0:
            raise ValueError(f"budget {budget}: bytes, or 0")
        native = self._alive()
        native.library.zc_heap_set_budget(native.heap, budget)

    def age(self) -> int:
        """Put away what was not touched since the last two calls. Returns the number of pages."""
        native = self._alive()
        return _checked(native.library.zc_heap_age(native.heap), "age")

    def stats(self) -> Stats:
        native, stats = self._alive(), _Stats()
        native.library.zc_heap_get_stats(native.heap, byref(stats))
        return Stats(**{name: getattr(stats, name) for name in Stats.__dataclass_fields__})

    def close(self) -> None:
        """It ends with the last view of its regions."""
        self._native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
