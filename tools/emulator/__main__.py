# SPDX-License-Identifier: Apache-2.0
"""python -m tools.emulator up [TARGET] | down [TARGET|all] | list"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import adbutils

from . import TARGETS, EmulatorError, boot
from .adb import AdbServer

_STATE = Path("build/emulator")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.emulator", description="Emulated ARM devices with real adbd."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="boot a device and connect it to your adb server")
    up.add_argument("target", nargs="?", default="arm64", choices=TARGETS)
    up.add_argument("--mem", type=int, default=512, metavar="MB", help="memory, from 128 (512)")
    up.add_argument("--su", action="store_true", help="give its shell user a su")
    down = commands.add_parser("down", help="stop a device")
    down.add_argument("target", nargs="?", default="all", choices=[*TARGETS, "all"])
    commands.add_parser("list", help="the devices that run")
    asked = parser.parse_args()
    try:
        if asked.command == "up":
            return _up(asked.target, asked.mem, asked.su)
        return _down(asked.target) if asked.command == "down" else _list()
    except EmulatorError as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 1


def _running() -> dict[str, dict[str, str]]:
    """State by target, of those whose QEMU lives."""
    states = {}
    for path in sorted(_STATE.glob("*.json")):
        state = json.loads(path.read_text())
        name = Path(f"/proc/{state['pid']}/comm")
        if name.exists() and name.read_text().startswith("qemu-system"):
            states[path.stem] = state
        else:
            path.unlink()
    return states


def _users_server() -> AdbServer:
    """The adb server that the user's own adb uses; started if none runs, never restarted."""
    adb = shutil.which("adb") or adbutils.adb_path()
    done = subprocess.run([adb, "start-server"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise EmulatorError(f"adb start-server: {done.stderr.strip()[-200:]}")
    process = subprocess.Popen(["true"])
    return AdbServer(int(os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")), Path.home(), process)


def _up(target: str, mem_mb: int, su: bool) -> int:
    if target in _running():
        print(f"{target} runs already, serial {_running()[target]['serial']}")
        return 0
    print(f"booting {target} with {mem_mb} MB; the first time its packages are downloaded", file=sys.stderr)
    device = boot(target, mem_mb=mem_mb, su=su, server=_users_server(), detach=True)
    _STATE.mkdir(parents=True, exist_ok=True)
    state = {"pid": str(device.pid), "serial": device.serial, "directory": str(device.directory)}
    (_STATE / f"{target}.json").write_text(json.dumps(state))
    print(f"{target} is up, serial {device.serial}. Next: .venv/bin/zcache -s {device.serial} demo")
    return 0


def _down(target: str) -> int:
    for name, state in _running().items():
        if target in (name, "all"):
            os.kill(int(state["pid"]), signal.SIGKILL)
            shutil.rmtree(state["directory"], ignore_errors=True)
            (_STATE / f"{name}.json").unlink()
            adb = shutil.which("adb") or adbutils.adb_path()
            subprocess.run([adb, "disconnect", state["serial"]], capture_output=True, timeout=30, check=False)
            print(f"{name} is down")
    return 0


def _list() -> int:
    for name, state in _running().items():
        print(f"{name} {state['serial']} console {state['directory']}/console.log")
    return 0


if __name__ == "__main__":
    sys.exit(main())
