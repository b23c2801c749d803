# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: `make bench` runs them, writes build/bench.json and docs/benchmarks.md."""
