# SPDX-License-Identifier: Apache-2.0
"""
The closed loop as a program of the device's own, which goes on without the host.

main.py      what runs there; pure Python and the standard library
files.py     names
program.py   makes the one file of it, which holds the config too
deploy.py    brings that to a device and starts it
process.py   finds it there, and ends it

docs/agent.md is for its users.
"""
