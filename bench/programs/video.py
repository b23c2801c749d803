# SPDX-License-Identifier: Apache-2.0
"""Media: ffmpeg makes a film of a moving picture with noise, as cameras have it, and plays it."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import whole_run

FILM = Path("build/workloads/film.mp4")
FRAMES, TIMES = 150, 10
QUIET = ("ffmpeg", "-nostdin", "-loglevel", "error")
PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30,noise=alls=10:allf=t", "-frames:v", str(FRAMES))
CODEC = ("-c:v", "libx264", "-preset", "veryfast", "-threads", "2")


@contextmanager
def encoding(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    with whole_run([*QUIET, *PICTURE, *CODEC, "-f", "null", "-"], groups) as work:
        yield work


@contextmanager
def decoding(groups: Sequence[Path]) -> Iterator[Callable[[], None]]:
    if not FILM.exists():
        FILM.parent.mkdir(parents=True, exist_ok=True)
        new = FILM.with_suffix(".new")
        subprocess.run([*QUIET, "-y", *PICTURE, *CODEC, "-f", "mp4", str(new)], check=True)
        new.rename(FILM)
    play = [*QUIET, "-threads", "2", "-stream_loop", str(TIMES - 1), "-i", str(FILM), "-f", "null", "-"]
    with whole_run(play, groups) as work:
        yield work
