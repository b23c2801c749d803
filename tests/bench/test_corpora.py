# SPDX-License-Identifier: Apache-2.0
"""Which pages of a process the benchmarks take."""

import ctypes
import mmap
import os
import struct
import subprocess

import pytest

from bench.corpora import BLOCK, anonymous_blocks, evenly, readable_areas, stopped, whole_blocks
from bench.errors import BenchError
from bench.programs.process import descendants, started
from bench.zram import algorithms

PRESENT, FILE = 1 << 63, 1 << 61

MAPS = """\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000004000 ---p 00000000 00:00 0
7f0000004000-7f0000008000 r--p 00001000 fe:00 42                         /usr/lib/a file.so
7ffc00000000-7ffc00004000 r--p 00000000 00:00 0                          [vvar]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_areas_that_can_be_read() -> None:
    assert list(readable_areas(MAPS)) == [(0x55D0C0000000, 0x55D0C0021000), (0x7F0000004000, 0x7F0000008000)]


def test_only_whole_blocks_of_anonymous_pages() -> None:
    pages = (
        [PRESENT] * 4 + [PRESENT, 0, PRESENT, PRESENT] + [PRESENT] * 3 + [PRESENT | FILE] + [PRESENT] * 4 + [PRESENT]
    )
    assert list(whole_blocks(struct.pack(f"<{len(pages)}Q", *pages), 4)) == [0, 3]


def test_own_memory_is_found_where_it_was_touched() -> None:
    with mmap.mmap(-1, 8 * BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[: 4 * BLOCK] = bytes([7]) * (4 * BLOCK)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        first = -(-start // BLOCK) * BLOCK
        found = {address for address in anonymous_blocks(os.getpid()) if start <= address < start + 8 * BLOCK}
    assert {first, first + BLOCK, first + 2 * BLOCK} <= found
    assert first + 5 * BLOCK not in found


def test_thinning_out_keeps_the_order_and_the_spread() -> None:
    assert evenly([1, 2, 3], 5) == [1, 2, 3]
    assert evenly(range(100), 4) == [0, 25, 50, 75]


def test_a_stopped_process_goes_on_afterwards() -> None:
    with started(["sleep", "60"]) as process:
        with stopped([process.pid]):
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
    assert process.returncode == -15


def test_children_of_children_are_found() -> None:
    with started(["sh", "-c", "sh -c 'echo $$; read line; :'; :"], output=subprocess.PIPE) as process:
        assert process.stdout
        grandchild = int(process.stdout.readline())
        assert grandchild in descendants(process.pid)


def test_a_missing_program_is_one_line() -> None:
    with pytest.raises(BenchError) as refusal, started(["no-such-program"]):
        pass
    assert str(refusal.value) == "no-such-program: not found; tools/system_packages bench installs it"


def test_what_a_zram_device_offers() -> None:
    assert algorithms("lzo-rle [lz4] zstd\n") == ["lzo-rle", "lz4", "zstd"]
