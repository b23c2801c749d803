# SPDX-License-Identifier: Apache-2.0
"""What shells complete of zcache's words, with and without a device; and that they are never bothered."""

import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import ZCACHE, Result, Zcache, fails, free_port


def completed(zcache: Zcache, line: str, **environment: str) -> list[str]:
    """The last word of a line, as bash asks for it; nothing may be said about what is wrong."""
    words = line.split(" ")
    asked = {"_ZCACHE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = zcache(**asked, **environment)
    assert (result.code, result.err) == (0, ""), result
    return [word.partition(",")[2] for word in result.out.split("\n") if word]


@pytest.fixture
def with_pools(local_daemon: Callable[..., Result]) -> None:
    for name in ("swap", "sweep", "other"):
        assert local_daemon("pool", "create", name).code == 0


def test_words_that_need_no_device(zcache: Zcache) -> None:
    assert completed(zcache, "zcache dem") == ["demo"]
    assert completed(zcache, "zcache pool cr") == ["create"]
    assert completed(zcache, "zcache pool create --al") == ["--allocator"]
    assert completed(zcache, "zcache tune --goal de") == ["density"]
    assert completed(zcache, "zcache -s lo") == ["local"]


@pytest.mark.usefixtures("with_pools")
def test_words_that_the_device_knows(zcache: Zcache) -> None:
    assert completed(zcache, "zcache -s local pool show s") == ["swap", "sweep"]
    assert completed(zcache, "zcache -s local replay --pool s") == ["swap", "sweep"]
    assert completed(zcache, "zcache pool destroy o", ZCACHE_SERIAL="local") == ["other"]
    mean = "pools/swap/params/zv_max_mean_zsize"
    assert completed(zcache, f"zcache -s local set {mean[:-5]}") == [mean]
    assert completed(zcache, f"zcache -s local set {mean} ") == []
    assert mean in completed(zcache, f"zcache -s local set {mean} 1/2 pools/sw")
    assert completed(zcache, "zcache -s local cat uptime_ms pools/swap/stats/raw") == ["pools/swap/stats/raw_pages"]
    assert completed(zcache, "zcache -s local cat pools/cr") == []
    assert completed(zcache, "zcache -s local params params/li") == ["params/limit"]
    assert "pools/swap/stats" in completed(zcache, "zcache -s local ls pools/swap")
    place = zcache.environment["ZCACHE_DIR"]
    assert completed(zcache, f"zcache -s local : {place} pool show sw", ZCACHE_DIR="/nowhere") == ["swap", "sweep"]
    assert completed(zcache, "zcache -s local : /no", ZCACHE_DIR="/nowhere") == []


def test_what_cannot_be_asked_is_silence(zcache: Zcache) -> None:
    assert completed(zcache, "zcache -s local cat par") == []
    assert completed(zcache, "zcache pool show s") == []
    for serial in ("nothing", "all", "a,b", "serial:/dev/nothing", "local:"):
        assert completed(zcache, f"zcache -s {serial} cat par") == []
    assert zcache(_ZCACHE_COMPLETE="csh_complete").code == 0


def test_it_starts_no_adb_server(zcache: Zcache) -> None:
    port = free_port()
    assert completed(zcache, "zcache -s ", ANDROID_ADB_SERVER_PORT=str(port)) == ["local", "all"]
    assert completed(zcache, "zcache cat par", ANDROID_ADB_SERVER_PORT=str(port)) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


def test_a_silent_adb_server_is_not_waited_for(zcache: Zcache, mute: int) -> None:
    assert completed(zcache, "zcache -s lo", ANDROID_ADB_SERVER_PORT=str(mute)) in ([], ["local"])
    assert completed(zcache, "zcache cat par", ANDROID_ADB_SERVER_PORT=str(mute)) == []


def typed(shell: list[str], script: str, zcache: Zcache) -> list[str]:
    environment = zcache.environment | {"PATH": f"{Path(ZCACHE).parent}:{os.environ['PATH']}"}
    ran = subprocess.run([*shell, script], capture_output=True, text=True, env=environment, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout.split()


@pytest.mark.usefixtures("with_pools")
def test_in_the_shells(zcache: Zcache, tmp_path: Path) -> None:
    bash = """
        source <(zcache completion bash)
        COMP_WORDS=(zcache -s local pool show s) COMP_CWORD=5
        _zcache_completion zcache; echo "${COMPREPLY[@]}"; complete -p zcache"""
    assert typed(["bash", "--norc", "-c"], bash, zcache)[:2] == ["swap", "sweep"]
    fish = 'zcache completion fish | source; complete -C "zcache -s local pool show s"'
    assert typed(["fish", "--no-config", "-c"], fish, zcache) == ["swap", "sweep"]
    # What zsh's own completion would be given is kept instead of shown.
    zsh = f"""
        autoload -Uz compinit; compinit -u -d {shlex.quote(str(tmp_path / "dump"))}
        source <(zcache completion zsh)
        compadd() {{ echo $completions }}
        words=(zcache -s local pool show s) CURRENT=6
        $_comps[zcache]"""
    assert typed(["zsh", "-f", "-c"], zsh, zcache) == ["swap", "sweep"]


def test_another_shell_is_refused(zcache: Zcache) -> None:
    fails(zcache("completion", "csh"), 2, "csh", "bash", "fish")
    assert zcache("completion", "zsh", "--json").json["shell"] == "zsh"
