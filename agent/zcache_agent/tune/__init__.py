# SPDX-License-Identifier: Apache-2.0
"""Which settings fit a device and what it holds: measured, predicted by models, judged by goals in a search."""
