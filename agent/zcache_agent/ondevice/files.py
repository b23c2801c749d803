# SPDX-License-Identifier: Apache-2.0
"""Names that the device's side and the host's share."""

NAME = "zcache-agent"
PROGRAM = f"{NAME}.pyz"
STATE = f"{NAME}.state"
LOG = f"{NAME}.log"
FILES = (PROGRAM, STATE, f"{NAME}.new", f"{NAME}.lock", LOG, f"{LOG}.1")
"""In the daemon's directory."""

CONFIG, CONFIG_HASH = "agent.toml", "agent.sha256"
"""In the program, beside the package's modules."""
