# SPDX-License-Identifier: Apache-2.0
"""Makes zcached a part of a device: what its init, or the manager of a rooted phone, starts at each boot.

kinds.py has the ways, whose files are in boot/; ways.py chooses one, bring.py brings it, remove.py takes it away.
What was brought is noted on the device, with its hashes, so that what somebody has changed is told apart: note.py.
"""
