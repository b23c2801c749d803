# SPDX-License-Identifier: Apache-2.0
"""Makes zcache-agent.pyz, a zipapp: the modules that the closed loop needs, and its config.

It is pure Python, so that any Python of any device can run it. The same modules and config make the same bytes: nothing
is compressed, as two zlibs may differ, and a small Python may have none.
"""

import ast
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import resolve_name
from pathlib import Path

from .files import CONFIG, CONFIG_HASH

LEAST_PYTHON = (3, 11)

_OURS = "zcache_agent"
_PACKAGES = Path(__file__).parents[2]
_EPOCH = (1980, 1, 1, 0, 0, 0)

_MAIN = """\
# SPDX-License-Identifier: Apache-2.0
import sys

try:
    from zcache_agent.ondevice.main import main
except ImportError as error:
    sys.exit(f"zcache-agent: {sys.executable} lacks a module of the standard library: {error}")
sys.exit(main())
"""


@dataclass(frozen=True)
class Program:
    content: bytes
    config_sha256: str
    """Of the config's bytes."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def make_program(config: bytes) -> Program:
    config_sha256 = hashlib.sha256(config).hexdigest()
    files = needed_files(f"{_OURS}.ondevice.main")
    files["__main__.py"] = _MAIN.encode()
    files[f"{_OURS}/{CONFIG}"] = config
    files[f"{_OURS}/{CONFIG_HASH}"] = f"{config_sha256}\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, files[name])
    return Program(packed.getvalue(), config_sha256)


def needed_files(first: str) -> dict[str, bytes]:
    """Of our modules, `first` and what is imported with it; of other distributions, those of which something is."""
    files: dict[str, bytes] = {}
    others: set[str] = set()
    seen = {""}
    wanted = [first]
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.partition(".")[0] != _OURS:
            others.add(name.partition(".")[0])
        elif file := _file_of(name):
            files[file.relative_to(_PACKAGES).as_posix()] = file.read_bytes()
            wanted += [name.rpartition(".")[0], *_imports(name, file)]
    for distribution in _distributions(others - set(sys.stdlib_module_names)):
        files |= _pure(distribution)
    return files


def _file_of(name: str) -> Path | None:
    """None: it is something in a module, and no module."""
    path = _PACKAGES.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports(name: str, file: Path) -> Iterator[str]:
    """What a module imports when it is imported: modules, and what may be one in a package."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = resolve_name("." * node.level + (node.module or ""), package)
            yield whole
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def _distributions(modules: Iterable[str]) -> list[metadata.Distribution]:
    by_module = metadata.packages_distributions()
    return [metadata.distribution(name) for name in sorted({by_module[module][0] for module in modules})]


def _pure(distribution: metadata.Distribution) -> dict[str, bytes]:
    """Its modules and its licence."""
    files = distribution.files or []
    assert not [file for file in files if file.suffix in (".so", ".pyd")], f"{distribution.name} is not pure Python"
    wanted = [file for file in files if file.suffix == ".py" or file.name.startswith(("LICENSE", "COPYING"))]
    return {file.as_posix(): file.read_binary() for file in wanted}
