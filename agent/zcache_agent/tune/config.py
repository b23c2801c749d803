# SPDX-License-Identifier: Apache-2.0
"""A recommendation as a config file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from .. import config
from ..files import write_whole
from .models import Setting, Settings


def write_config(path: Path, settings: Settings, pool: str, measured: Mapping[str, Setting]) -> None:
    """As zcache config takes it; the pool by that name. `measured` says why. Usage: it cannot be written."""
    tables: dict[str, Any] = {"kernel": {}, "measured": dict(measured)}
    for section, values in settings.items():
        if section == "pool":
            tables["pools"] = {pool: {"kind": "persistent", **values}}
        elif section in ("zram", "zswap", "vm"):
            tables["kernel"][section] = _zram(values) if section == "zram" else dict(values)
        else:
            tables[section] = dict(values)
    write_whole(path, config.write(config.parse(tomlkit.dumps(tables), "what tune recommends")), "--save")


def _zram(values: Mapping[str, Setting]) -> dict[str, object]:
    second = values["recompression"]
    kept = {name: value for name, value in values.items() if name not in ("recompression", "writeback")}
    return {**kept, "recompression": [] if second == "none" else [second]}
