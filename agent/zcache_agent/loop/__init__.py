# SPDX-License-Identifier: Apache-2.0
"""
The closed loop: it watches a device's memory and zcache's statistics, and moves parameters within bounds.

bounds.py   what it may change, and how far: the [agent] table of a config
moment.py   what it makes of a moment (gather.py), and of two
rules.py    what follows from that: decisions with their reasons; pure functions
run.py      again and again: look, decide, set, tell

Pure Python, as it runs on the device too. docs/agent.md explains the rules.
"""
