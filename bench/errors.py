# SPDX-License-Identifier: Apache-2.0
"""What ends a benchmark with one line."""


class BenchError(Exception):
    """Which thing did not do what it should, why, and the way out."""
