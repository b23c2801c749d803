# SPDX-License-Identifier: Apache-2.0
"""README and docs/: what they show comes out, every command is run or it is said why not, options and links are there.

tests/device/test_docs.py runs what is to run on devices.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.documents import DOCUMENTS, HERE, NOWHERE, commands, missing, shape, show
from tests.support import ROOT
from tools.emulator import TARGETS
from zcache_agent.cli import zcache

NOT_RUN = {
    # It builds, or takes hours.
    "make run": "tests/agent/test_demo.py",
    "make test": ".ci/run",
    "make build": ".ci/run",
    "make workloads NAMES='redis g++'": "tests/bench/test_workloads.py",
    "make dist": "tests/dist/test_dist.py",
    "(cd build/dist && sha256sum -c SHA256SUMS)": "tests/dist/test_dist.py",
    "python3 -m venv zc && zc/bin/pip install build/dist/*.whl": "tests/device/test_wheel.py",
    "zc/bin/zcache doctor": "tests/device/test_wheel.py",
    "pip install zcache_agent-0.1.0-py3-none-any.whl": "tests/device/test_wheel.py",
    # It goes on until somebody ends it.
    "zcache top": "tests/agent/test_top.py",
    "zcache top --kernel": "tests/agent/test_top.py",
    "zcache top --interval 5": "tests/agent/test_top.py",
    "zcache export": "tests/agent/test_export.py",
    "zcache export --listen 0.0.0.0:9823": "tests/agent/test_export.py",
    "zcache kernel maintain --budget 64M --every 3600": "tests/device/test_config.py",
    # It takes a name or a file of the reader's.
    "zcache -s SERIAL doctor": "tests/device/test_agent_commands.py",
    "zcache -s SERIAL demo": "tests/device/test_replay.py",
    "zcache export --once FILE": "tests/agent/test_export.py",
    "zcache export --once --kernel": "tests/agent/test_export.py",
    "zcache report": "tests/agent/test_report.py",
    "zcache report --save before.json": "tests/agent/test_report.py",
    "zcache report r.html --before before.json --for 30s": "tests/agent/test_report.py",
    "zcache report r.html --with pages.json --with frontier.json": "tests/agent/test_report.py",
    "zcache record swap swap.zcrec --seconds 600": "tests/agent/test_recording.py",
    "zcache analyze --app com.example": "tests/device/test_analyze.py",
    # It takes a minute on a device, and is run there by a test of its own.
    "zcache demo": "tests/device/test_replay.py",
    "zcache tune": "tests/device/test_tune.py",
    "zcache tune --goal balanced": "tests/device/test_tune.py",
    "zcache tune --goal density --app com.example": "tests/agent/test_tune.py",
    "zcache tune --goal flash --limit 64M --scratch /data/local/tmp": "tests/device/test_tune.py",
    "zcache tune --for zram --cold 50 --flash-mb-s 80": "tests/device/test_tune.py",
    "zcache tune memory.dump --save board.toml": "tests/agent/test_tune.py",
    "zcache simulate swap.zcrec --set allocator=zbud --set 'allocator=zsmalloc codec=zstd:3 zv_max_zsize=3/4'":
        "tests/agent/test_simulate.py",
    # It needs a device of its own.
    "make emulator-up": "tests/device/test_emulator.py",
    "make emulator-up DEVICE=arm64": "tests/device/test_emulator.py",
    "make emulator-down": "tests/device/test_emulator.py",
    "zcache config save phone.toml": "tests/device/test_config.py",
    "zcache kernel status": "tests/device/test_config.py",
    "zcache swap on --size 384M": "tests/device/test_swap.py",
    "zcache blockcache on /dev/block/mmcblk1p1": "tests/device/test_blockcache.py",
    "adb shell su -c 'mount -t ext4 /dev/block/ublkb0 /mnt/media'": "tests/device/test_blockcache.py",
    "zcache blockcache status": "tests/device/test_blockcache.py",
    "adb shell su -c 'umount /mnt/media'": "tests/device/test_blockcache.py",
    "zcache blockcache off": "tests/device/test_blockcache.py",
    "export ZCACHE_SERIAL=serial:/dev/ttyUSB0,115200": "tests/device/test_serial.py",
    "zcache -s serial:/dev/ttyUSB0,115200 up": "tests/device/test_serial.py",
    "echo 1 >/proc/PID/clear_refs; sleep 60; grep Referenced /proc/PID/smaps": "tests/bench/test_workloads.py",
    "export ADB_SERVER_SOCKET=tcp:farm.example:5037": "tests/agent/test_transport_adb.py",
    "zcache -s all up": "tests/device/test_fleet.py",
    "zcache -s all --json analyze >farm.json": "tests/agent/test_fleet.py",
    "/usr/bin/python3 /var/lib/zcache/zcache-agent.pyz start": "tests/device/test_ondevice.py",
    "/usr/bin/python3 /var/lib/zcache/zcache-agent.pyz run": "tests/device/test_ondevice.py",
    "zcache install --dry-run": "tests/device/test_install.py",
    "zcache install --config device.toml": "tests/device/test_install.py",
    "zcache uninstall": "tests/device/test_install.py",
    # Programs around libzcache.
    "cc -D_GNU_SOURCE -Inative/include examples/heap.c -Lbuild/host -lzcache -o build/heap":
        "tests/native/test_heap.py",
    "LD_LIBRARY_PATH=build/host build/heap": "tests/native/test_heap.py",
    "cc -D_GNU_SOURCE -Inative/include examples/sqlite.c -Lbuild/host -lzcache -lsqlite3 -o build/sqlite":
        "tests/native/test_heap.py",
    "LD_LIBRARY_PATH=build/host build/sqlite build/lines.db": "tests/native/test_heap.py",
}  # fmt: skip
"""Commands of the documents that no test runs as they stand there, and where what they do is tested."""

_SPAN = re.compile(r"`(zcache [^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def identity(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=identity)
def test_what_documents_show_comes_out(document: Path, tmp_path: Path) -> None:
    show(document, HERE, (), tmp_path)


def test_every_command_is_run_or_said_where_it_is_tested() -> None:
    known = [(document.name, command) for document in DOCUMENTS for command in commands(document)]
    assert {command.place for _, command in known} <= {HERE, NOWHERE, *TARGETS}
    ran = {command.plain for _, command in known if command.place != NOWHERE} - set(NOT_RUN)
    assert [(name, command.plain) for name, command in known if command.plain not in {*ran, *NOT_RUN}] == []
    assert set(NOT_RUN) <= {command.plain for _, command in known}, "what is in no document any more"
    assert [place for place in NOT_RUN.values() if not (ROOT / place).exists()] == []


def mentioned() -> Iterator[tuple[str, str]]:
    """Each zcache command line in a block or a sentence."""
    for document in DOCUMENTS:
        for command in commands(document):
            yield from ((document.name, part) for part in re.findall(r"(?:^|[(|;&] *)(zcache .*)", command.plain))
        yield from ((document.name, span) for span in _SPAN.findall(document.read_text()))


def unknown(line: str) -> str:
    """What zcache knows no command or option of, in a line; or nothing."""
    words = shlex.split(re.split(r" ?[|;&>]+ ?|\)", line, maxsplit=1)[0].replace("…", ""))[1:]
    command: click.Command = zcache
    context = click.Context(command)
    while isinstance(command, click.Group):
        parser = command.make_parser(context)
        parser.allow_interspersed_args = False
        _, words, _ = parser.parse_args(words)
        if not words or words[0].isupper():  # COMMAND stands for any
            return ""
        found = command.get_command(context, words[0])
        if found is None:
            return words[0]
        context, command, words = click.Context(found, parent=context), found, words[1:]
    try:
        command.make_parser(context).parse_args(words)
    except click.NoSuchOption as wrong:
        return wrong.option_name
    except click.UsageError:
        pass  # a value that the sentence leaves out
    return ""


def test_every_option_that_is_mentioned_is_there() -> None:
    lines = list(mentioned())
    assert len(lines) > 150
    assert unknown("zcache -s local pool create x --nothing") == "--nothing"
    assert unknown("zcache nothing") == "nothing"
    assert [(name, line, unknown(line)) for name, line in lines if unknown(line)] == []


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=identity)
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [path.name for path in DOCUMENTS if path.name != "README.md" and path.name not in index] == []


def test_a_line_that_does_not_come_out_is_found() -> None:
    assert shape("1/8  3 %  █  compress_poor 4, mean_compress_poor 5") == shape("1/8  7 %  ██  compress_poor 9")
    came = ["pages  120  ██▌", "≤ 64  3", "ratio 2.13"]
    assert missing(["pages 7 █", "…", "≤ 128  9", "ratio 1.99"], came) is None
    assert missing(["ratio 1.99", "pages 7 █"], came) == "pages 7 █"
    assert missing(["stored 7"], came) == "stored 7"


def test_the_readme_has_something_to_run() -> None:
    assert any("replay" in command.text for command in commands(ROOT / "README.md"))
