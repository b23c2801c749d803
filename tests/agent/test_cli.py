# SPDX-License-Identifier: Apache-2.0
"""The command line on this machine, with the real daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.conftest import ZCACHE, Result, Zcache, fails
from tests.support import pause
from zcache_agent.cli import COMMANDS, EXIT_BROKEN_PIPE, main
from zcache_agent.cli.failure import EXIT_INTERNAL
from zcache_agent.cli.output import Output, duration_text, size_text
from zcache_agent.cli.watch import Sample, line, rates, show_pools

Local = Callable[..., Result]


class TestDevices:
    def test_this_machine_is_listed_and_never_chosen(self, zcache: Zcache) -> None:
        *others, last = [device["serial"] for device in zcache("devices", "--json").json]
        assert last == "local"
        assert all(serial.startswith("serial:/dev/") for serial in others)  # ports that this machine has
        fails(zcache("status"), 3, "no device", "-s local")

    def test_an_unknown_serial(self, zcache: Zcache) -> None:
        fails(zcache("-s", "nope", "status"), 3, "nope", "adb sees none")
        fails(zcache("-s", "10.9.9.9:5555", "status"), 3, "adb connect 10.9.9.9:5555")

    def test_the_order_of_the_ways_to_name_it(self, zcache: Zcache) -> None:
        fails(zcache("status", ZCACHE_SERIAL="a", ANDROID_SERIAL="b"), 3, "no device a")
        fails(zcache("status", ANDROID_SERIAL="b"), 3, "no device b")
        fails(zcache("status", "-s", "c", ZCACHE_SERIAL="a"), 3, "no device c")

    @pytest.mark.parametrize("serial", ["local:", "serial:"])
    def test_a_serial_that_cannot_be(self, zcache: Zcache, serial: str) -> None:
        fails(zcache("-s", serial, "status"), 2, serial)


class TestOptions:
    def test_work_before_and_after_the_command(self, local_daemon: Local, zcache: Zcache) -> None:
        expected = zcache("-s", "local", "--json", "cat", "version").json
        assert zcache("cat", "version", "--json", "--serial", "local").json == expected
        assert zcache("--json", "pool", "list", "-s", "local").json == []
        assert zcache("pool", "-s", "local", "list", "--json").json == []

    def test_the_later_one_counts(self, local_daemon: Local, zcache: Zcache) -> None:
        assert zcache("-s", "nope", "cat", "-s", "local", "version").code == 0

    @pytest.mark.parametrize(
        "arguments",
        [("frob",), ("status", "--frob"), ("cat",), ("--timeout", "0", "status"), ("pool", "frob"), ("up", "extra")],
    )
    def test_wrong_usage_is_one_line(self, zcache: Zcache, arguments: tuple[str, ...]) -> None:
        fails(zcache(*arguments), 2, "--help")
        result = zcache("--json", *arguments)
        assert (result.code, result.error["name"]) == (2, "usage")

    def test_every_command_has_help(self, zcache: Zcache) -> None:
        listed = zcache("--help").out
        for command in COMMANDS:
            assert f"  {command} " in listed
            assert zcache(command, "--help").code == 0

    def test_errors_are_one_document_under_json(self, zcache: Zcache) -> None:
        result = zcache("--json", "-s", "local", "status")
        assert result.code == 4
        assert result.out == ""
        assert result.error.keys() == {"name", "message", "hint"}
        assert result.error["name"] == "no_daemon"


class TestTree:
    def test_ls(self, local_daemon: Local) -> None:
        names = local_daemon("ls").out.splitlines()
        assert "version" in names
        assert "pools/" in names
        assert local_daemon("ls", "params", "--json").json == local_daemon("ls", "params").out.splitlines()
        fails(local_daemon("ls", "nope"), 5, "nope")

    def test_cat(self, local_daemon: Local) -> None:
        assert local_daemon("cat", "page_size", "abi").out == "4096\n1\n"
        assert local_daemon("cat", "page_size", "--json").json == {"page_size": 4096}
        fails(local_daemon("cat", "page_size", "pools"), 5, "pools")
        assert local_daemon("cat", "pools", "--json").error["name"] == "EISDIR"

    def test_set(self, local_daemon: Local) -> None:
        local_daemon("pool", "create", "swap")
        path = "pools/swap/params/zv_max_zsize"
        assert local_daemon("set", path, "7/8", "pools/swap/params/zv_max_mean_zsize", "50%").code == 0
        assert local_daemon("set", path, "3/4", "--json").json == {path: 3072}
        fails(local_daemon("set", path, "4097"), 5, "4097")
        fails(local_daemon("set", path, "-1"), 5, "-1")
        fails(local_daemon("set", path), 2, path)
        assert local_daemon("cat", path).out == "3072\n"

    def test_stats(self, local_daemon: Local) -> None:
        local_daemon("pool", "create", "swap")
        values = local_daemon("stats", "--json").json
        assert values["pools/swap/stats/puts"] == 0
        assert "stats/used_bytes" in values
        assert values.pop("stats/pressure_source") in ("psi", "meminfo")
        assert all(isinstance(value, int) for value in values.values())
        assert local_daemon("stats", "pools/swap/*poor", "--json").json.keys() == {
            "pools/swap/stats/compress_poor",
            "pools/swap/stats/mean_compress_poor",
        }
        assert "stats/used_bytes" in local_daemon("stats").out
        fails(local_daemon("stats", "nope*"), 2, "nope*")

    def test_stats_again_and_again_until_interrupted(self, local_daemon: Local, zcache: Zcache) -> None:
        watch = zcache.start("-s", "local", "stats", "stats/frames", "-w", "0.1", "--json")
        assert watch.stdout
        first, *rest = [json.loads(watch.stdout.readline()) for _ in range(3)]
        times = [document.pop("time") for document in (first, *rest)]
        assert times == sorted(times)
        assert first == {"stats/frames": 0}
        assert rest == [{"stats/frames": 0, "stats/frames_per_s": 0.0}] * 2
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 130
        assert watch.stderr
        assert json.loads(watch.stderr.read())["error"]["name"] == "interrupted"

    def test_what_a_watch_shows(self, local_daemon: Local, zcache: Zcache) -> None:
        def lines(count: int, *words: str) -> list[list[str]]:
            watch = zcache.start("-s", "local", "stats", *words, "-w", "0.1")
            assert watch.stdout
            shown = [watch.stdout.readline().split() for _ in range(count)]
            watch.send_signal(signal.SIGINT)
            watch.communicate(timeout=30)
            assert watch.returncode == 130
            return shown

        assert lines(2)[1] == ["none"]
        local_daemon("pool", "create", "swap")
        head, first, _, second = lines(4)
        assert head[:6] == ["pool", "pages", "warm", "frames", "cold", "frames"]
        assert first[:4] == ["swap", "0", "0", "0"]
        assert second[len(first) :] == ["0", "0", "0", "0", "0", "bytes", "0"], (
            "rates are there from the second time on"
        )
        assert lines(4, "*/puts")[1::2] == [["pools/swap/stats/puts", "0"], ["pools/swap/stats/puts", "0", "0.0"]]

    def test_a_watch_shows_a_cold_tier_where_there_is_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        def shown(**counters: int) -> list[str]:
            values = {f"pools/p/stats/{name}": value for name, value in counters.items()}
            show_pools(Output(as_json=False, quiet=False), Sample(1.0, values), {})
            return capsys.readouterr().out.splitlines()

        assert "cold" not in shown(frames=7, used_bytes=9)[0]
        head, row = shown(frames=7, cold_frames=2, cold_pages=8, zpages=3, used_bytes=9)
        assert re.match(r"pool +pages +warm frames +cold frames +cold pages ", head)
        assert row.split()[:5] == ["p", "11", "5", "2", "8"]

    def test_what_grew_a_second(self) -> None:
        before, now = Sample(1.0, {"a": 10, "b": "text", "gone": 1}), Sample(3.0, {"a": 5, "b": "text", "new": 2})
        assert rates(before, now) == {"a": -2.5}
        assert rates(None, now) == rates(now, now) == {}
        assert line(now, rates(before, now)) == {"time": 0.0, "a": 5, "a_per_s": -2.5, "b": "text", "new": 2}

    def test_params(self, local_daemon: Local) -> None:
        local_daemon("pool", "create", "swap")
        facts = local_daemon("params", "*zv_max_zsize", "--json").json
        assert facts.keys() == {"pools/swap/params/zv_max_zsize"}
        (only,) = facts.values()
        assert only["value"] == 3584
        assert only["meaning"]
        assert only["range"]
        assert only["default"] == "7/8 of a page"
        assert only["meaning"] in local_daemon("params").out


class TestPool:
    def test_life(self, local_daemon: Local) -> None:
        made = local_daemon("pool", "create", "cache", "--kind", "ephemeral", "--codec", "lz4", "--json").json
        assert (made["name"], made["kind"], made["allocator"], made["codec"]) == ("cache", "ephemeral", "zbud", "lz4")
        assert local_daemon("pool", "list", "--json").json == [made]
        assert "cache" in local_daemon("pool", "list").out
        assert local_daemon("pool", "show", "cache", "--json").json["kind"] == "ephemeral"
        assert local_daemon("pool", "destroy", "cache", "--json").json == {"name": "cache", "pages": 0}
        assert local_daemon("pool", "list", "--json").json == []

    def test_refusals(self, local_daemon: Local) -> None:
        local_daemon("pool", "create", "swap")
        assert local_daemon("pool", "create", "swap", "--json").error["name"] == "EEXIST"
        assert local_daemon("pool", "create", "a/b", "--json").error["name"] == "EINVAL"
        assert local_daemon("pool", "create", "x", "--codec", "nope", "--json").error["name"] == "EINVAL"
        for command in ("show", "destroy"):
            fails(local_daemon("pool", command, "nope"), 5, "nope")
        fails(local_daemon("pool", "create", "x", "--kind", "odd"), 2, "odd")
        assert [pool["name"] for pool in local_daemon("pool", "list", "--json").json] == ["swap"]


class TestDaemon:
    def test_status(self, local_daemon: Local, tmp_path: Path) -> None:
        local_daemon("pool", "create", "swap")
        facts = local_daemon("status", "--json").json
        assert facts["directory"] == str(tmp_path / "zcache")
        assert facts["pools"] == {"swap": "persistent"}
        assert 0 <= facts["used_bytes"] <= facts["limit_bytes"]
        assert str(facts["pid"]) in local_daemon("status").out

    def test_log(self, local_daemon: Local, zcache: Zcache) -> None:
        lines = local_daemon("log", "--json").json
        assert lines
        assert local_daemon("log").out.splitlines()[: len(lines)] == lines
        assert local_daemon("log", "-n", 1).out.splitlines() == lines[-1:]
        os.kill(local_daemon("status", "--json").json["pid"], signal.SIGKILL)
        assert lines[0] in zcache("-s", "local", "log").out

    def test_log_as_it_grows(self, local_daemon: Local, zcache: Zcache, tmp_path: Path) -> None:
        follow = zcache.start("-s", "local", "log", "-f", "-n", 1)
        log = tmp_path / "zcache/zcached.log"
        assert follow.stdout
        assert follow.stdout.readline().strip() == log.read_text().splitlines()[-1]
        with log.open("a") as file:
            file.write("one more\n")
        assert follow.stdout.readline() == "one more\n"
        log.rename(tmp_path / "zcache/zcached.log.1")
        log.write_text("a new file\n")
        assert follow.stdout.readline() == "a new file\n"
        follow.send_signal(signal.SIGINT)
        assert follow.wait(30) == 130

    def test_no_daemon(self, zcache: Zcache) -> None:
        for command in (["status"], ["ls"], ["stats"], ["log"], ["pool", "list"], ["wait", "--daemon", "--timeout", 1]):
            fails(zcache("-s", "local", *command), 4, "zcache up")

    def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(self, local_daemon: Local) -> None:
        pid = local_daemon("status", "--json").json["pid"]
        pause(pid)
        try:
            fails(local_daemon("--timeout", 0.5, "stats"), 3, "0.5 s", "--timeout")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert local_daemon("stats").code == 0

    def test_wait(self, local_daemon: Local) -> None:
        assert local_daemon("wait", "--daemon", "--json").json == {"serial": "local"}

    def test_version(self, local_daemon: Local, zcache: Zcache) -> None:
        facts = local_daemon("version", "--json").json
        assert facts["daemon"] == facts["agent"] == zcache("version", "--json").json["agent"]
        assert "arm64-v8a" in facts["binaries"]
        assert zcache("--version").out == f"zcache {facts['agent']}\n"

    def test_bugreport(self, local_daemon: Local, tmp_path: Path) -> None:
        local_daemon("pool", "create", "swap")
        file = tmp_path / "report.tar.gz"
        assert local_daemon("bugreport", file, "--json").json == {"file": str(file)}
        with tarfile.open(file) as tar:
            contents = {Path(member.name).name: tar.extractfile(member) for member in tar}
            texts = {name: content.read().decode() for name, content in contents.items() if content}
        assert json.loads(texts["values.json"])["pools/swap/kind"] == "persistent"
        assert json.loads(texts["doctor.json"])["uses"]
        assert "zv_max_zsize" in texts["describe.txt"]
        assert "pools/swap/zv_curr_dist_counts" in texts["tables.txt"]
        assert texts["zcached.log"]

    def test_bugreport_without_a_daemon_says_so_in_it(self, zcache: Zcache, tmp_path: Path) -> None:
        file = tmp_path / "report.tar.gz"
        assert zcache("-s", "local", "bugreport", file).code == 0
        with tarfile.open(file) as tar:
            values = tar.extractfile("report/values.json")
            assert values
            assert b"no_daemon" in values.read()
        fails(zcache("-s", "local", "bugreport", tmp_path), 2, str(tmp_path))


class TestEnds:
    def test_a_reader_that_goes_away_is_no_error(self, local_daemon: Local, zcache: Zcache) -> None:
        for index in range(40):
            local_daemon("pool", "create", f"p{index}")
        for command, reader in (("stats -w 0.1", "head -1"), ("stats", "true"), ("--json stats", "true")):
            piped = f"{ZCACHE} -s local {command} | {reader}; exit ${{PIPESTATUS[0]}}"
            ran = subprocess.run(["bash", "-c", piped], capture_output=True, env=zcache.environment, timeout=60)
            assert (ran.returncode, ran.stderr) == (EXIT_BROKEN_PIPE, b""), command

    def test_an_unforeseen_exception_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Forced: none is known."""

        def fail(*_: object) -> None:
            raise RuntimeError("boom")

        monkeypatch.setattr("zcache_agent.cli.session.open_transport", fail)
        assert main(["-s", "local", "status"]) == EXIT_INTERNAL
        assert capsys.readouterr().err.count("\n") == 1
        assert main(["-s", "local", "status", "-v"]) == EXIT_INTERNAL
        assert "RuntimeError: boom" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5120.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("ms", "text"), [(0, "0 s"), (61_000, "1 min 1 s"), (90_000_000, "1 d 1 h")])
def test_durations(ms: int, text: str) -> None:
    assert duration_text(ms) == text
