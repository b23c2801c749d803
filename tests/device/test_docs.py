# SPDX-License-Identifier: Apache-2.0
"""What documents show on a device comes out on the emulated one that they name."""

from pathlib import Path

import pytest

from tests.agent.test_docs import NOT_RUN
from tests.documents import DOCUMENTS, commands, show
from tools.emulator import TARGETS, Device

SHOWN = [
    pytest.param(target, document, id=f"{target}-{document.name}")
    for target in TARGETS
    for document in DOCUMENTS
    if any(command.place == target for command in commands(document))
]


@pytest.mark.parametrize(("device", "document"), SHOWN, indirect=["device"])
def test_what_documents_show_comes_out(device: Device, document: Path, tmp_path: Path) -> None:
    # The serial of the device, as a phone that is connected alone needs none.
    serial = {**device.env, "ANDROID_SERIAL": device.serial, "ZCACHE_SERIAL": device.serial}
    show(document, device.target, NOT_RUN, tmp_path, **serial)


def test_documents_show_something_on_each_kind_of_device() -> None:
    assert {param.values[0] for param in SHOWN} >= {"arm64", "arm64-root"}
