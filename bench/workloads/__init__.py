# SPDX-License-Identifier: Apache-2.0
"""Which programs compressed memory helps: docs/which-workloads.md. `__main__.py` says what is measured."""
