# SPDX-License-Identifier: Apache-2.0
"""The demo's own processes: real programs that grow memory on the device and hold it.

Each is a shell script, run there with a pipe or socket as stdin. It prints `pid N` and, when its memory is
grown, a line with `ready`; it ends when its stdin does, so none outlives the one who started it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import ZcacheError
from .transport.base import ByteStream, Transport


@dataclass(frozen=True)
class Workload:
    name: str
    holds: str
    """What its memory is made of, for people."""
    needs: tuple[str, ...]
    """Programs that must be there."""
    script: str
    """$scale: how much to hold, 1 being a few megabytes. `hold COMMAND…` says its pid and becomes the
    command. fd 8 is the script's stdout, fd 9 its stdin, inside a pipeline and the command too."""


_PRELUDE = r"""
scale=$1 python=$2 permit=$3
exec 8>&1 9<&0 2>&1
hold() { exec sh -c 'echo "pid $$" >&8; exec "$@"' sh ${python:+"$python" -c "$permit"} "$@" 8>&8 9<&9; }
"""

# Where Yama guards processes, one must allow a process that is not its ancestor to read it.
_PERMIT = """
import ctypes, os, sys
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)
ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""

_LISTING = r"""
listing() {
    for round in 1 2 3; do find /usr /system /vendor /apex /etc /sys 2>/dev/null; done | head -c "$(($1 * scale))"
}
"""

WORKLOADS = (
    Workload(
        "cc1",
        "a C compiler at work",
        ("gcc",),
        r"""
cc1=$(gcc -print-prog-name=cc1)
functions=$(i=0; while [ $i -lt $((300 * scale)) ]; do
    echo "struct s$i { int n; double v[$i + 1]; };
double f$i(struct s$i *s) { double x = 0; for (int i = 0; i < s->n; i++) x += s->v[i] * $i; return x; }"
    i=$((i + 1)); done)
{ cat; echo "#error ended"; } | hold "$cc1" -quiet -O2 -Wfatal-errors -o /dev/null /dev/fd/3 3<<END
$functions
#warning ready
#include "/dev/stdin"
END
""",
    ),
    Workload(
        "python3",
        "JSON records",
        ("python3",),
        r"""
hold python3 -c '
import json, sys
records = []
for n in range(3000 * int(sys.argv[1])):
    record = {"id": n, "name": f"user-{n}", "mail": f"user{n}@example.org", "at": {"x": n / 7, "y": n * n}}
    records.append(json.loads(json.dumps(record)))
print("ready", flush=True)
sys.stdin.read()' "$scale"
""",
    ),
    Workload(
        "sqlite",
        "tables in memory",
        ("python3",),
        r"""
hold python3 -c '
import sqlite3, sys
db = sqlite3.connect(":memory:")
db.execute("create table track (id integer primary key, title text, artist text, seconds real)")
rows = range(20000 * int(sys.argv[1]))
db.executemany(
    "insert into track values (?, ?, ?, ?)",
    ((n, f"Track number {n}", f"Artist {n % 1000}", n % 313 / 7) for n in rows),
)
db.execute("create index by_artist on track (artist, title)")
print("ready", flush=True)
sys.stdin.read()' "$scale"
""",
    ),
    Workload(
        "sort",
        "lines to be sorted",
        ("sort", "find", "head"),
        _LISTING
        + r"""
{ listing 1500000; echo ready >&8; cat; } | hold sort -S 64M >/dev/null
""",
    ),
    Workload(
        "awk",
        "arrays of words",
        ("awk", "find", "head"),
        _LISTING
        + r"""
listing 500000 | hold awk -F/ '{ line[NR] = $0; for (i = 2; i <= NF; i++) seen[$i]++ }
END { system("echo ready; cat <&9") }'
""",
    ),
    Workload(
        "sh",
        "a long variable",
        ("find", "head"),
        _LISTING
        + r"""
hold sh -c 'text=$(cat); echo ready; cat <&9' <<END
$(listing 1500000)
END
""",
    ),
)


def available(transport: Transport) -> list[Workload]:
    """Those whose programs the device has."""
    programs = sorted({program for workload in WORKLOADS for program in workload.needs})
    script = 'for program; do command -v "$program" >/dev/null && echo "$program"; done; true'
    found = transport.run(["sh", "-c", script, "sh", *programs]).text.split()
    return [workload for workload in WORKLOADS if set(workload.needs) <= set(found)]


@contextmanager
def running(transport: Transport, workload: Workload, scale: int) -> Iterator[int]:
    """The pid of the workload, its memory grown; it ends with the block."""
    permit = (sys.executable, _PERMIT) if transport.is_local else ("", "")
    script = _PRELUDE + workload.script
    stream = transport.open_command(["sh", "-c", script, "sh", str(scale), *permit])
    try:
        yield _wait_until_ready(stream, workload)
    finally:
        stream.close()


def _wait_until_ready(stream: ByteStream, workload: Workload) -> int:
    said = b""
    pid = 0
    while part := stream.read(4096):
        said += part
        *lines, said = said.split(b"\n")
        for line in lines:
            if line.startswith(b"pid "):
                pid = int(line[4:])
            elif b"ready" in line and pid:
                return pid
    raise ZcacheError(f"the workload {workload.name} ended before it was ready: {said.decode(errors='replace')}")


def wait_until_gone(transport: Transport, pids: list[int]) -> None:
    script = (
        'for pid; do tries=50; while [ $tries -gt 0 ] && kill -0 "$pid"; do tries=$((tries - 1)); sleep 0.1; done; done'
    )
    transport.run(["sh", "-c", script + " 2>/dev/null; true", "sh", *map(str, pids)])
