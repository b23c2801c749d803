# SPDX-License-Identifier: Apache-2.0
"""Which zcached runs on which device: the binaries that came with the agent, or a file of the user's."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from .device import Device
from .errors import DaemonAbsent, Usage

BUNDLED = Path(__file__).parent / "_bin"


class DeployFailed(DaemonAbsent):
    """The daemon could not be brought to run."""

    default_name = "deploy_failed"


_MACHINES = {
    "EM_AARCH64": "arm64-v8a",
    "EM_ARM": "armeabi-v7a",
    "EM_X86_64": "x86_64",
}


@dataclass(frozen=True)
class Binary:
    """A zcached for some ABI, on this machine."""

    path: Path
    abi: str
    size: int
    sha256: str
    alignment: int
    """Of its segments, in bytes: the largest page size that it runs on."""
    is_static: bool


def read_binary(path: Path) -> Binary:
    from elftools.common.exceptions import ELFError  # slow to import
    from elftools.elf.elffile import ELFFile

    try:
        content = path.read_bytes()
    except OSError as error:
        raise Usage(
            f"{path}: {error.strerror}", hint="name a zcached: --binary FILE, or build them: make build"
        ) from error
    try:
        elf = ELFFile(io.BytesIO(content))
        kind, machine = elf.header["e_type"], elf.header["e_machine"]
        segments = list(elf.iter_segments())
    except (ELFError, ValueError, KeyError) as error:
        raise Usage(f"{path}: no ELF file: {error}", hint="name a zcached for the device") from error
    loaded = [segment["p_align"] for segment in segments if segment["p_type"] == "PT_LOAD"]
    if kind not in ("ET_EXEC", "ET_DYN") or machine not in _MACHINES or not loaded:
        raise Usage(f"{path}: no program for ARM or x86_64 ({kind}, {machine})", hint="name a zcached for the device")
    return Binary(
        path,
        _MACHINES[machine],
        len(content),
        hashlib.sha256(content).hexdigest(),
        min(loaded),
        all(segment["p_type"] != "PT_INTERP" for segment in segments),
    )


def bundled() -> dict[str, Path]:
    """By ABI: the binaries that came with the agent."""
    return {path.parent.name: path for path in sorted(BUNDLED.glob("*/zcached"))}


def choose_binary(device: Device, is_local: bool, abi: str | None = None, file: Path | None = None) -> Binary:
    """The program for a device, checked against it. DeployFailed: there is none."""
    path = file or _choose_bundled(device, is_local, abi)
    binary = read_binary(path)
    if binary.abi not in device.abis:
        raise DeployFailed(
            f"{path} is for {binary.abi}; {device.serial} runs {', '.join(device.abis)}",
            name="unsupported_abi",
            hint="leave out --abi and --binary to let zcache choose, or build one for it",
        )
    if not binary.is_static and not is_local:
        raise DeployFailed(
            f"{path} is linked dynamically: its libraries may be missing on {device.serial}",
            name="not_static",
            hint="link it statically, as make build does",
        )
    if device.page_size and binary.alignment < device.page_size:
        raise DeployFailed(
            f"{path}: its segments are aligned to {binary.alignment} bytes; pages of {device.serial} have"
            f" {device.page_size}",
            name="alignment",
            hint=f"link it with -z max-page-size={device.page_size}",
        )
    return binary


def _choose_bundled(device: Device, is_local: bool, abi: str | None) -> Path:
    have = bundled()
    if abi:
        if abi not in have:
            raise Usage(f"--abi {abi}: there is no zcached for it", hint=f"there are: {', '.join(have) or 'none'}")
        return have[abi]
    for name in (*(("host",) if is_local else ()), *device.abis):
        if name in have and (name != "host" or read_binary(have[name]).abi in device.abis):
            return have[name]
    raise DeployFailed(
        f"{device.serial} runs {', '.join(device.abis)}; there is no zcached for it",
        name="unsupported_abi",
        hint=f"there are: {', '.join(have) or 'none (run make build)'}; zcache up --binary FILE takes another",
    )
