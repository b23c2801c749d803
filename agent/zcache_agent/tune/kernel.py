# SPDX-License-Identifier: Apache-2.0
"""What the device's kernel has of zram and zswap, and how it is set now."""

from dataclasses import dataclass

from ..device import Rights
from ..errors import Refused
from ..settings import State, read_files, shown
from ..transport.base import Transport

PERCENT, ACCEPT = 20, 90
"""The kernel's own max_pool_percent and accept_threshold_percent."""


@dataclass(frozen=True)
class Kernel:
    zram_algorithms: tuple[str, ...] = ()
    """None: there is no zram, or it is not known."""
    zram_algorithm: str = ""
    recompresses: bool = False
    """zram compresses again what idles, by a second algorithm."""
    writes_back: bool = False
    """zram takes a backing device."""
    zswap_compressor: str = ""
    """Empty: there is no zswap, or it is not known."""
    zswap_percent: int = PERCENT
    zswap_shrinks: bool = False
    """zswap has a shrinker."""
    page_cluster: int = 3
    swappiness: int = 60


def look(transport: Transport) -> Kernel:
    now = State(read_files(transport, Rights.OWN))
    kernel = shown(now).kernel
    zram, zswap, vm = kernel.zram, kernel.zswap, kernel.vm
    return Kernel(
        tuple(now.algorithms(zram.device)) if zram.device else (),
        zram.algorithm or "",
        zram.recompression is not None,
        zram.writeback_device is not None,
        zswap.compressor or "",
        zswap.max_pool_percent or PERCENT,
        zswap.shrinker_enabled is not None,
        Kernel.page_cluster if vm.page_cluster is None else vm.page_cluster,
        Kernel.swappiness if vm.swappiness is None else vm.swappiness,
    )


def require(kernel: Kernel, target: str, serial: str) -> None:
    """Refused: the device's kernel has nothing that could be tuned so."""
    if target == "zram" and not kernel.zram_algorithms:
        raise Refused(
            f"{serial}: its kernel shows no zram", name="no_zram", hint="load the module zram, or tune --for pool"
        )
    if target == "zswap" and not kernel.zswap_compressor:
        raise Refused(f"{serial}: its kernel has no zswap", name="no_zswap", hint="tune --for zram, or --for pool")
