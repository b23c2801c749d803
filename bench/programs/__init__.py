# SPDX-License-Identifier: Apache-2.0
"""Real programs at work, their memory grown: what the corpora are taken from. A module a program, each with

running() -> a context whose value is the pids of the processes to take pages from, until it ends
"""
