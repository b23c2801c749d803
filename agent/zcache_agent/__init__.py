# SPDX-License-Identifier: Apache-2.0
"""The agent of zcache: deploys zcached on a device, configures its pools and shows what it does."""

__version__ = "0.1.0"
