# SPDX-License-Identifier: Apache-2.0
"""Training of dictionaries for zstd, on the host."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

from .errors import Usage
from .sources import Source

SHARE = 100
"""What it is trained on at most, in times its size: zstd recommends it."""
HELD_OUT_BYTES = 8 << 20
RUN = 16
"""Pages next to each other are alike: so many are trained on, or held out, together."""
EACH = 4
"""Of the runs, each fourth is held out."""

Buffer = bytes | bytearray | memoryview
"""Of zstandard's signatures."""


@dataclass(frozen=True)
class Trained:
    data: bytes
    pages: int
    """That it was trained on."""
    held_out: int
    """Others, which it was tried on."""
    ratio_without: float
    """How many times smaller these get."""
    ratio_with: float

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("pages", "held_out", "ratio_without", "ratio_with")}


def train(sources: Sequence[Source], page_size: int, size: int, level: int) -> Trained:
    """A dictionary of at most `size` bytes. Usage: there are too few pages."""
    total = sum(1 for _ in _pages(sources))
    learned = _some(_part(sources, held_out=False), total, max(RUN, size * SHARE // page_size))
    others = _some(_part(sources, held_out=True), total, HELD_OUT_BYTES // page_size)
    if not others:
        raise Usage(
            f"{total} pages, same-filled ones left out, are too few to train on: {RUN * EACH} at least",
            hint="name more or larger files",
        )
    try:
        trained = zstandard.train_dictionary(size, learned, level=level)
    except zstandard.ZstdError as error:
        raise Usage(f"{len(learned)} pages: {error}", hint="name other files, or another --size") from error
    ratios = (round(len(others) * page_size / _compressed(others, level, given), 3) for given in (None, trained))
    return Trained(trained.as_bytes(), len(learned), len(others), *ratios)


def _pages(sources: Sequence[Source]) -> Iterator[bytes]:
    """Those that would be compressed: no same-filled ones."""
    pages = itertools.chain.from_iterable(source.pages() for source in sources)
    return (page for page in pages if page != page[:8] * (len(page) // 8))


def _part(sources: Sequence[Source], *, held_out: bool) -> Iterator[bytes]:
    for number, page in enumerate(_pages(sources)):
        if (number // RUN % EACH == EACH - 1) == held_out:
            yield page


def _some(pages: Iterable[Buffer], total: int, most: int) -> list[Buffer]:
    """At most `most` of at most `total` pages, evenly."""
    taken = min(most, total)
    return [page for number, page in enumerate(pages) if number * taken % total < taken]


def _compressed(pages: Iterable[Buffer], level: int, dictionary: zstandard.ZstdCompressionDict | None) -> int:
    """Bytes that the pages take, each compressed by itself, as the daemon would."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)
    return sum(len(compressor.compress(page)) for page in pages)
