# SPDX-License-Identifier: Apache-2.0
"""The other sections, each with its aim and how it was measured."""

from statistics import geometric_mean

from bench.measure import Facts

from .table import mib, ms, percent, table, times, us

COLD_LEVEL, COLD_EXTENT = 9, 4
"""The defaults of cold_codec and cold_extent."""
COLD_LEVELS = (3, 6, 9)

THREADS = """
## Two threads

`zc_bench threads`: two threads on two cores share the pages, into one pool or into two; each begins with a half (and
a pool) of its own, and who has done it helps the other, a batch of 32 pages at a time, so that no core waits. How many
times as much two cores get done as one. Aim: at least 1.8. *LZ4 alone* by two threads, each with its own state, is what
the machine itself gives, when it gave it. The thread that makes memory ready has no core of its own here, neither
beside one thread nor beside two: first puts pay for it.

"""

COMPACTION = """
## Compaction

`zc_bench compact`, {few_rounds} rounds: {pages} distinct pages, made from the corpus's, of which a random 80 % are
flushed; then compaction on one core, while a thread on the other gets a random page, puts it again, and so on. Frames
are given as their bytes to those of the zpages left. Aim: at most 1.1 once compacted. *By itself*: the same with
`compact_auto`, no compaction asked for. *Quiet* is the same thread for as long after compaction ended; a virtual
machine's own stalls are in both.

"""

RECLAIM = """
## Reclaim

`zc_bench reclaim`: an ephemeral pool holds the corpus; a random fifth of its pages, the hot ones, were got since they
were put; then a quarter of its frames is asked for, one at a time, and the coldest go. *Lost*: of the hot pages, and of
the others. Pages left are given for each frame left. *At random*: another such pool loses as many zpages, any of them.

"""

BACKING = """
## Writeback

`zc_bench backing`, {few_rounds} rounds: zpages that were compressed before, into a packed backing store of
{store_mib} MiB, in batches of 1 MiB, beside `fio` (psync) on the same file with the same block size, {direct}. *One*
thread fills a batch, then writes it; *two*: two are written while a third is filled. *zbud*, *zsmalloc*: writeback of a
pool that has as many, where each zpage is found, verified and copied first, and its frame goes to the OS in the end.
Speed is that of the zpages' bytes alone. Aim: at least 0.8 of fio. *Read*: one zpage, at random.
The disk *as it is* (the host's, behind its page cache) takes more than flash does; so the same again, {flash_rounds}
rounds, with the kernel limiting what is written to it, by anybody, to the speed of eMMC 5.1 and of UFS 3.1.

What is written in all for each byte of zpages evicted: while the store was *filled*; and *again*, after a random half
was freed, for three quarters as many. Aim: at most 1.05. *Cleaned* comes on top: what cleaning wrote for the latter.

"""

COLD = """
## The cold tier

`zc_bench cold`: each corpus, all gone cold, by the default of `cold_codec` and `cold_extent`,
{codec} and {extent} pages. Memory is counted as beside zram: how many times less than zram with lz4 takes, and than
zstd page by page in zsmalloc. *Get*: a random page of a random extent, no neighbour warmed, in turns with a random page
by zstd alone; medians. Aims: at least 1.7 and 1.1 times less (geometric means); at most 4 times.

"""

HEAP = """
## The compressed heap

`zc_bench heap`: the corpus lies in a heap over a pool in zsmalloc with lz4, and in plain memory that the kernel swaps
to zram with lz4, alone, `page-cluster` 0. *Out*: all is put away, by `zc_heap_evict()` and by MADV_PAGEOUT; *in*: every
page is touched, in random order; *in order*: one after another: the heap brings up to 8 at a fault, the kernel, so
configured, one. *None ahead*: the heap does, too. Memory as beside zram. Aims, with SIGBUS: out at most 0.9 of the
kernel's, in at most 1.3, memory no more.

"""
COLD_CURVE = """
What the default was chosen by, over all corpora: geometric means of *times less than zstd page by page* and, behind
it, of *times a single-page get*; and microseconds a page to compress.

"""

SIZES = """
## How many frames

`zc_bench sizes`: frames a 100 pages, a refused page being one; zpages in bytes, without refused pages.
[allocators.md](allocators.md) shows the distributions.

"""

ENTROPY = """
## The entropy gate

`zc_bench entropy`: what `entropy_gate` at {recommended} gets wrong of all pages but same-filled ones. *Poor* pages
compress to more than 7/8. *Refused*: the gate refuses them, and they would have been kept. *Passed*: poor ones that
it does not see, so that they are compressed for nothing.

"""

IN_PROCESS = """
## In process, against the codec alone

`zc_bench inproc`: *LZ4 alone* is the codec as the store calls it, state reused, a resident buffer for each page; the
store's times have everything in them. Pools are zbud's. Aim: put within 10 %, get within 20 %. *Again*: the keys are
there already and their memory is resident, as in a store that has run for a while, and as LZ4's is. *Filling*: into an
empty store, each frame's memory fresh from the OS, which clears it.

*Packed* is LZ4 alone into one buffer, zpages one right after another: no allocator could free one of them, but it is
the least that reading and writing them costs. Those ratios are under *to packed*.

"""

SOCKET = """
## Through the data socket, against the codec alone

`zc_bench socket`: a shared segment, batches of 32, up to 4 in flight; the client on the other core. Gets go to 128
pages in turns, on both sides. *LZ4 alone* as above, a buffer for each page. Aim: within 35 %.

"""

SCALE = """
## Scale

`zc_bench scale`: distinct pages under random keys (any 32-bit index), a small and a large store in turns, batches of
32. Aims: at 4 million at most 1.3 times the cost at 10 thousand; at most 40 bytes of index and metadata a page. The
{head_bytes} bytes in front of each zpage, its owner and checksum, are in its frame.

"""

USED = """
## used_bytes against the OS

`zc_bench used`: growth over the empty store, of `used_bytes` and of Pss + SwapPss, and what is left after everything
was flushed. Aims: within 2 %; within 4 MiB.

"""


def threads(facts: Facts) -> str:
    rows = []
    for allocator, corpora in facts["threads"].items():
        for corpus, f in corpora.items():
            for where, label in (("alone_two", "LZ4 alone"), ("same", "one pool"), ("apart", "two pools")):
                one = "alone_one" if where == "alone_two" else "one"
                row: list[object] = [corpus, "" if where == "alone_two" else allocator, label]
                for operation in ("put", "again", "get"):
                    row += [us(f[f"{one}_{operation}_ns"]), us(f[f"{where}_{operation}_ns"])]
                    row.append(times(f[f"{where}_{operation}_times"]))
                rows.append(row)
    heads = ["corpus", "", ""]
    for operation in ("put", "again", "get"):
        heads += [f"{operation}, one", "two", "times"]
    return THREADS.format(**facts) + table(heads, rows, left=3)


def compaction(facts: Facts) -> str:
    corpora = facts["compact"]
    pages = next(iter(corpora.values()))["pages"]
    text = COMPACTION.format(**facts, pages=pages)
    text += table(
        ["corpus", "freed", "compacted", "by itself", "flush, µs", "flush by itself", "compaction, ms"],
        [
            [
                name,
                *(times(f[f"{what}_ratio"]) for what in ("before", "after", "auto")),
                *(us(f[what]) for what in ("flush_ns", "auto_flush_ns")),
                ms(f["compact_ns"]),
            ]
            for name, f in corpora.items()
        ],
    )
    text += "\nHow long one get or put of the other thread takes, in microseconds:\n\n"
    return text + table(
        ["corpus", "", "median", "99.9 %", "longest"],
        [
            [name, label, *(us(f[f"{when}_{what}_ns"]) for what in ("median", "p999", "max"))]
            for name, f in corpora.items()
            for when, label in (("busy", "compacting"), ("quiet", "quiet"))
        ],
        left=2,
    )


def reclaim(facts: Facts) -> str:
    rows = []
    for allocator, corpora in facts["reclaim"].items():
        for corpus, f in corpora.items():
            left = f["hot"] + f["cold"] - f["zpages"]
            row = [corpus, allocator, f["frames"], f["freed"]]
            row += [*(times(f[frames] / f["zpages"]) for frames in ("freed", "random_freed")), us(f["frame_ns"])]
            row += [percent(f["hot_lost"], f["hot"]), percent(f["cold_lost"], f["cold"])]
            rows.append([*row, times(left / (f["frames"] - f["freed"]))])
    heads = [
        "corpus",
        "",
        "frames",
        "freed",
        "frames a zpage",
        "at random",
        "µs a frame",
        "hot lost",
        "others lost",
        "pages a frame",
    ]
    return RECLAIM + table(heads, rows, left=2)


def backing(facts: Facts) -> str:
    ways = ("one", "two", "zbud", "zsmalloc")
    media = {"as it is": facts["backing"]} | {f"{rate} MB/s": corpora for rate, corpora in facts["flash"].items()}
    rows = []
    for medium, corpora in media.items():
        for corpus, f in corpora.items():
            row: list[object] = [medium, corpus, f"{f['fio_mbs']:.0f}"]
            for who in ways:
                row += [f"{f[f'{who}_mbs']:.0f}", times(f[f"{who}_ratio"])]
            row.append(us(f["read_ns"]))
            rows.append([*row, *(f"{f[what]:.3f}" for what in ("filling_written", "again_written", "cleaned"))])
    one = next(iter(facts["backing"].values()))
    direct = "O_DIRECT both" if one["is_direct"] else "without O_DIRECT, which the file system does not have"
    heads = ["disk", "corpus", "fio, MB/s", *(head for who in ways for head in (who, "ratio"))]
    heads += ["read, µs", "filled", "again", "cleaned"]
    return BACKING.format(**facts, store_mib=one["store_bytes"] >> 20, direct=direct) + table(heads, rows, left=2)


def cold(facts: Facts) -> str:
    rows = []
    for corpus, f in facts["cold"].items():
        point = cold_default(f)
        row = [corpus, *(f"{value:.2f}" for value in (cold_to_zram(facts, corpus), cold_to_zstd(f)))]
        rows.append(
            [*row, us(point["get_ns"]), us(point["zstd_get_ns"]), times(point["get_ns"] / point["zstd_get_ns"])]
        )
    heads = ["corpus", "of zram", "of zstd", "get", "zstd get", "times"]
    text = COLD.format(codec=f"zstd:{COLD_LEVEL}", extent=COLD_EXTENT) + table(heads, rows)
    return text + COLD_CURVE + table(["pages", *(f"zstd:{level}" for level in COLD_LEVELS)], cold_curve(facts), left=1)


def heap(facts: Facts) -> str:
    names = {
        "kernel": "kernel",
        "thread": "heap, a thread answers",
        "sigbus": "heap, SIGBUS",
        "alone": "heap, SIGBUS, none ahead",
    }
    rows = []
    for corpus, f in facts["heap"].items():
        for side, name in names.items():
            row: list[object] = [corpus, name]
            for what in ("out", "in", "in_order"):
                row += [us(f[f"{side}_{what}_ns"]), "" if side == "kernel" else times(f[f"{side}_{what}_ratio"])]
            row += [mib(f[f"{side}_used_bytes"]), "" if side == "kernel" else times(f[f"{side}_used_ratio"])]
            rows.append(row)
    heads = ["corpus", "", "out", "ratio", "in", "ratio", "in order", "ratio", "memory, MiB", "ratio"]
    return HEAP + table(heads, rows, left=2)


def cold_curve(facts: Facts) -> list[list[object]]:
    corpora = facts["cold"].values()
    rows: list[list[object]] = []
    for pages in sorted({point["pages"] for f in corpora for point in f["curve"]}):
        row: list[object] = [pages]
        for level in COLD_LEVELS:
            points = [(f, cold_point(f, pages, level)) for f in corpora]
            less = geometric_mean(f["zstd_bytes"] / point["used_bytes"] for f, point in points)
            get = geometric_mean(point["get_ns"] / point["zstd_get_ns"] for _, point in points)
            took = geometric_mean(point["recompress_ns"] for _, point in points)
            row.append(f"{less:.2f}, {get:.1f}; {us(took)}")
        rows.append(row)
    return rows


def cold_point(f: Facts, pages: int, level: int) -> Facts:
    return next(point for point in f["curve"] if (point["pages"], point["level"]) == (pages, level))


def cold_default(f: Facts) -> Facts:
    return cold_point(f, COLD_EXTENT, COLD_LEVEL)


def cold_to_zstd(f: Facts) -> float:
    return float(f["zstd_bytes"] / cold_default(f)["used_bytes"])


def cold_to_zram(facts: Facts, corpus: str) -> float:
    """Times less a page than zram with lz4, whose pages are the whole corpus's."""
    zram, f = facts["zram"]["lz4"][corpus]["memory"], facts["cold"][corpus]
    return float(zram["zram"]["used_bytes"] / zram["pages"] / (cold_default(f)["used_bytes"] / f["pages"]))


def sizes(facts: Facts) -> str:
    rows = []
    for codec, corpora in facts["sizes"].items():
        for corpus, f in corpora.items():
            frames = {name: f[name]["frames"] + f[name]["refused"] for name in ("zbud", "zsmalloc")}
            row = [corpus, codec, f"{f['zbud']['zbytes'] / f['zbud']['zpages']:.0f}"]
            row += [f"{100 * count / f['pages']:.1f}" for count in frames.values()]
            row += [percent(f["zbud"]["refused"], f["pages"]), percent(f["same_filled"], f["pages"] + f["same_filled"])]
            rows.append(row)
    return SIZES + table(["corpus", "codec", "mean zpage", "zbud", "zsmalloc", "refused", "same-filled"], rows, left=2)


def entropy(facts: Facts) -> str:
    rows = []
    for corpus, f in facts["entropy"].items():
        gate = f["gates"][str(f["recommended"])]
        row = [corpus, us(f["estimate_ns"]), us(f["compress_ns"]), percent(f["poor"], f["pages"])]
        rows.append([*row, percent(gate["refused"], f["pages"]), percent(gate["passed"], f["pages"])])
    recommended = next(iter(facts["entropy"].values()))["recommended"]
    heads = ["corpus", "estimate", "LZ4", "poor", "refused", "passed"]
    return ENTROPY.format(recommended=recommended) + table(heads, rows)


def beside_codec(facts: Facts) -> str:
    rows = []
    for section, label in (("inproc", ""), ("inproc_plain", ", no checksums"), ("inproc_16k", ", 16 KiB pages")):
        for name, corpus in facts["corpora"].items():
            f = corpus[section]
            row = [name + label, f["pages"], us(f["alone_put_ns"]), us(f["again_put_ns"]), times(f["again_put_ratio"])]
            row += [times(f["again_put_ratio"] / f["packed_put_ratio"])]
            row += [us(f["store_put_ns"]), times(f["store_put_ratio"])]
            row += [us(f["alone_get_ns"]), us(f["store_get_ns"]), times(f["store_get_ratio"])]
            rows.append([*row, times(f["store_get_ratio"] / f["packed_get_ratio"])])
    put, get = ["LZ4 put", "again", "ratio", "to packed", "filling", "ratio"], ["LZ4 get", "get", "ratio", "to packed"]
    return IN_PROCESS + table(["corpus", "pages", *put, *get], rows)


def through_socket(facts: Facts) -> str:
    rows = []
    for name, corpus in facts["corpora"].items():
        f = corpus["socket"]
        row = [name, us(f["alone_put_ns"]), us(f["socket_put_ns"]), times(f["socket_put_ratio"])]
        rows.append([*row, us(f["alone_get_ns"]), us(f["socket_get_ns"]), times(f["socket_get_ratio"])])
    return SOCKET + table(["corpus", "LZ4 put", "socket put", "ratio", "LZ4 get", "socket get", "ratio"], rows)


def scale(facts: Facts) -> str:
    rows: list[list[object]] = []
    for allocator, f in facts["scale"].items():
        for side in ("few", "many"):
            metadata = f[f"{side}_metadata_bytes"] / f[f"{side}_zpages"]
            rows.append([allocator, f[side], us(f[f"{side}_put_ns"]), us(f[f"{side}_get_ns"]), f"{metadata:.1f} bytes"])
        rows.append([allocator, "ratio", times(f["put_ratio"]), times(f["get_ratio"]), ""])
    heads = ["allocator", "pages stored", "put", "get", "index and metadata a page"]
    return SCALE.format(**facts["scale"]["zbud"]) + table(heads, rows)


def used_bytes(facts: Facts) -> str:
    rows = []
    for allocator, by_size in facts["used"].items():
        for page_size, f in by_size.items():
            difference = 100 * (f["used_bytes"] / f["os_bytes"] - 1)
            left = f"{f['left_os_bytes'] / 1024:.0f} KiB"
            rows.append([allocator, page_size, f["used_bytes"], f["os_bytes"], f"{difference:+.2f} %", left])
    return USED + table(["allocator", "page size", "used_bytes", "OS", "difference", "left, OS"], rows)
