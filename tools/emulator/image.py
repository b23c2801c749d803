# SPDX-License-Identifier: Apache-2.0
"""The device's kernel and initramfs, made of Debian packages and init.sh, kept in the cache."""

import hashlib
import io
import lzma
import re
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from . import packages

_INIT = Path(__file__).with_name("init.sh")
_BOARD_RC = Path(__file__).with_name("board.sh")
_LIBRARIES = "usr/lib/aarch64-linux-gnu"
_LOADER = "ld-linux-aarch64.so.1"
_PROGRAMS = {
    "usr/lib/android-sdk/platform-tools/adbd": "bin/adbd",
    "usr/sbin/mkfs.fat": "bin/mkfs.fat",
    "usr/sbin/mke2fs": "bin/mke2fs",
    "usr/bin/mksh": "system/bin/sh",
}
"""Where they are in their packages, and on the device."""
_MODULES = (
    "failover", "net_failover", "virtio_net", "virtio_blk", "loop", "nls_cp437", "nls_ascii", "nls_utf8", "vfat",
    "crc32c_generic", "ext4", "zsmalloc", "lz4_compress", "lz4hc_compress", "lz4", "zstd", "zram", "ublk_drv", "nbd",
)  # fmt: skip
_DISK_MB = 1024
_KEPT_SECONDS = 86400
_ACCOUNTS = "root::0:0:root:/:/bin/sh\nshell::2000:2000:shell:/data/local/tmp:/bin/sh\n"
_GROUP = "root:x:0:\nshell:x:2000:\n"
_INITTAB = "::sysinit:/etc/rc\nttyAMA0::respawn:/bin/busybox getty -L 115200 ttyAMA0 vt100\n"
_BOARD_HASH = "$1$zcache$HSeCmrdoGPgsnjqqb2M0k1"
"""Of root's password, "board"."""


@dataclass(frozen=True)
class Image:
    kernel: Path
    initramfs: Path


@dataclass
class _Tree:
    """Files of the initramfs by path: mode and content."""

    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._parents(path)
        self.files[path] = (stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        self._parents(path)
        self.files[path] = (stat.S_IFLNK | 0o777, target.encode())

    def _parents(self, path: str) -> None:
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            self.files.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))

    def cpio(self) -> bytes:
        """The "newc" format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst."""
        out = io.BytesIO()
        entries = [*self.files.items(), ("TRAILER!!!", (0, b""))]
        for number, (path, (mode, content)) in enumerate(entries, 1):
            name = path.encode() + b"\0"
            fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
            out.write(b"070701" + b"".join(b"%08X" % value for value in fields) + name)
            out.write(b"\0" * (-out.tell() % 4))
            out.write(content)
            out.write(b"\0" * (-out.tell() % 4))
        return out.getvalue()


def image(flavour: str, board: bool = False) -> Image:
    """For a kernel of packages.KERNELS; downloads and builds what the cache does not have.

    board: BusyBox and nothing else.
    """
    with packages.locked() as cache:
        kernel_deb = packages.kernel(flavour)
        userland = packages.userland()
        inputs = [Path(__file__).read_bytes(), (_BOARD_RC if board else _INIT).read_bytes()]
        inputs += [deb.name.encode() for deb in (kernel_deb, *userland)]
        key = hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]
        name = f"board{flavour}" if board else flavour
        built = Image(cache / f"vmlinuz-{name}-{key}", cache / f"initramfs-{name}-{key}")
        if not built.initramfs.exists():
            _forget_old(cache, name)
            tree = _Tree()
            kernel = _add_modules(tree, kernel_deb)
            (_add_board if board else _add_userland)(tree, userland)
            _write(built.kernel, kernel)
            _write(built.initramfs, tree.cpio())
    return built


def _forget_old(cache: Path, flavour: str) -> None:
    """What is a day old; younger ones may be another work tree's, which boots them now."""
    for old in cache.glob(f"*-{flavour}-*"):
        if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
            old.unlink()


def disk_of(*names: str) -> Path:
    """An ext4 image with these packages, and all they need, in a tree to chroot into; its shell is dash."""
    with packages.locked() as cache:
        debs = packages.programs("dash", *names)
        key = hashlib.sha256(b"\0".join(deb.name.encode() for deb in debs)).hexdigest()[:16]
        disk = cache / f"programs-{key}"
        if not disk.exists():
            with tempfile.TemporaryDirectory() as root:
                _unpack(debs, Path(root))
                new = disk.with_suffix(".new")
                new.unlink(missing_ok=True)
                _run("mke2fs", "-Fq", "-t", "ext4", "-d", root, str(new), f"{_DISK_MB}M")
                new.rename(disk)
    return disk


def _unpack(debs: Iterable[Path], root: Path) -> None:
    """No package's scripts are run: what is there is what programs of C, C++ and Python need."""
    for name in ("bin", "lib", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        _run("dpkg-deb", "--extract", str(deb), str(root))
    for name, program in (("sh", "dash"), ("awk", "mawk")):
        link = root / "usr/bin" / name
        if not link.is_symlink() and (root / "usr/bin" / program).exists():
            link.symlink_to(program)
    for name in ("proc", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise packages.EmulatorError(f"{command[0]}: {done.stderr.strip()[-200:]}")


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


def _members(deb: Path) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """The files of a package, as a stream."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                yield member.name.removeprefix("./"), member, archive
    if process.returncode != 0:
        raise packages.EmulatorError(f"{deb} is damaged: remove it, it will be downloaded again")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _add_modules(tree: _Tree, deb: Path) -> bytes:
    """The modules in the order to load them; returns the kernel."""
    kernel = b""
    modules: dict[str, bytes] = {}
    for path, member, archive in _members(deb):
        if path.startswith("boot/vmlinuz"):
            kernel = _content(archive, member)
        elif found := re.fullmatch(r".*/([^/]+)\.ko(\.xz)?", path):
            modules[found[1].replace("-", "_")] = _content(archive, member)
    order: list[str] = []
    for name in _MODULES:
        _load(name, modules, tree, order)
    tree.add("modules/order", "".join(f"{name}.ko\n" for name in order).encode())
    return kernel


def _load(name: str, modules: dict[str, bytes], tree: _Tree, order: list[str]) -> None:
    """After what it depends on. What is not there as a module is built in, or not in this kernel."""
    if name in order or name not in modules:
        return
    raw = modules[name]
    content = lzma.decompress(raw) if raw.startswith(b"\xfd7zXZ") else raw
    depends = re.search(rb"\0depends=([^\0]*)\0", content)
    for other in depends[1].decode().split(",") if depends and depends[1] else []:
        _load(other.replace("-", "_"), modules, tree, order)
    order.append(name)
    tree.add(f"modules/{name}.ko", content)


def _add_userland(tree: _Tree, debs: Iterable[Path]) -> None:
    there: dict[str, bytes] = {}
    links: dict[str, str] = {}
    for deb in debs:
        for path, member, archive in _members(deb):
            if member.issym():
                links[path] = member.linkname
            elif member.isfile() and (path.startswith(_LIBRARIES) or path in (*_PROGRAMS, "usr/bin/busybox")):
                there[path] = _content(archive, member)
    tree.add("init", _INIT.read_bytes(), 0o755)
    tree.add("bin/busybox", there["usr/bin/busybox"], 0o755)
    tree.add("etc/passwd", _ACCOUNTS.encode())
    tree.add("etc/group", _GROUP.encode())
    for source, path in _PROGRAMS.items():
        tree.add(path, there[source], 0o755)
        _add_libraries(tree, there[source], there, links)
    tree.link(f"lib/{_LOADER}", f"/{_LIBRARIES}/{_LOADER}")


def _add_board(tree: _Tree, debs: Iterable[Path]) -> None:
    for deb in debs:
        for path, member, archive in _members(deb):
            if path == "usr/bin/busybox":
                tree.add("bin/busybox", _content(archive, member), 0o755)
    tree.link("sbin/init", "/bin/busybox")
    tree.add("etc/rc", _BOARD_RC.read_bytes(), 0o755)
    tree.add("etc/inittab", _INITTAB.encode())
    tree.add("etc/passwd", f"root:{_BOARD_HASH}:0:0:root:/:/bin/sh\n".encode())
    tree.add("etc/group", _GROUP.encode())


def _add_libraries(tree: _Tree, program: bytes, there: dict[str, bytes], links: dict[str, str]) -> None:
    """What the program needs, and what that needs."""
    for name in [*_needed(program), _LOADER]:
        places = [f"{_LIBRARIES}/{name}", f"{_LIBRARIES}/android/{name}"]
        path = next((place for place in places if place in there or place in links), None)
        if not path:
            raise packages.EmulatorError(f"{name} is needed on the device and in none of its packages")
        if path in tree.files:
            continue
        real = str(PurePosixPath(path).parent / links[path]) if path in links else path
        tree.add(path, there[real], 0o755)
        _add_libraries(tree, there[real], there, links)


def _needed(program: bytes) -> list[str]:
    dynamic = ELFFile(io.BytesIO(program)).get_section_by_name(".dynamic")
    if not isinstance(dynamic, DynamicSection):
        return []
    return [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
