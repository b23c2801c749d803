# SPDX-License-Identifier: Apache-2.0
"""A CycloneDX bill of materials of a release: our binaries, the C code in each, the packages that the agent needs.

It is a function of the tree and of SOURCE_DATE_EPOCH: its serial number is made of its contents.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from tools.elf_gate import FOLDER, Shipped, shipped

from .parts import PARTS, Part, Requirement, direct, pins, requirements

OURS = "Apache-2.0"
NAMESPACE = uuid.UUID("7d0b2a0e-5f0c-4f35-9c1b-2f8f3a5f6c11")
"""Of the serial numbers of our releases: made once, by uuid4()."""


def sbom(agent_version: str, epoch: int) -> str:
    """As indented JSON, which ends with a newline."""
    bom = Bom()
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.metadata.tools.components.add(_component("cyclonedx-python-lib", version("cyclonedx-python-lib"), "Apache-2.0"))
    agent = _component("zcache-agent", agent_version, OURS, kind=ComponentType.APPLICATION)
    bom.metadata.component = agent
    parts = {part: _part(part) for part in PARTS}
    packages = {requirement: _package(requirement) for requirement in requirements()}
    binaries = {what: _binary(what, agent_version) for what in shipped()}
    bom.components.update(parts.values(), packages.values(), binaries.values())
    bom.register_dependency(
        agent, [*binaries.values(), *(made for needed, made in packages.items() if direct(needed))]
    )
    for what, binary in binaries.items():
        bom.register_dependency(binary, [made for part, made in parts.items() if _has(what, part)])
    for needed, made in packages.items():
        below = [other for one, other in packages.items() if needed.name in one.needed_by]
        bom.register_dependency(made, below)
    bom.serial_number = uuid.uuid5(NAMESPACE, _json(bom, uuid.UUID(int=0)))
    return _json(bom, bom.serial_number) + "\n"


def _json(bom: Bom, serial: uuid.UUID) -> str:
    bom.serial_number = serial
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def _component(
    name: str,
    number: str,
    licence: str | None,
    *,
    kind: ComponentType = ComponentType.LIBRARY,
    purl: PackageURL | None = None,
    facts: dict[str, str] | None = None,
) -> Component:
    purl = purl or PackageURL("pypi", None, name, number)
    return Component(
        name=name,
        version=number,
        type=kind,
        bom_ref=str(purl),
        purl=purl,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        properties=[Property(name=f"zcache:{key}", value=value) for key, value in (facts or {}).items() if value],
    )


def _binary(what: Shipped, agent_version: str) -> Component:
    content = (FOLDER / what.name).read_bytes()
    abi, _, name = what.name.partition("/")
    kind = ComponentType.LIBRARY if what.is_library else ComponentType.APPLICATION
    purl = PackageURL("generic", "zcache", name, agent_version, {"abi": abi})
    component = _component(name, agent_version, OURS, kind=kind, purl=purl, facts={"path": f"_bin/{what.name}"})
    component.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(content).hexdigest()))
    return component


def _part(part: Part) -> Component:
    """Its version is the C library's own; the package of PyPI it comes out of, with that one's hash, is a reference."""
    number = part.version()
    component = _component(part.name, number, part.licence, purl=PackageURL("generic", None, part.name, number))
    pin = pins().get(part.package)
    origin = PackageURL("pypi", None, part.package, pin["version"] if pin else version(part.package))
    component.external_references.add(
        ExternalReference(
            type=ExternalReferenceType.SOURCE_DISTRIBUTION if pin else ExternalReferenceType.DISTRIBUTION,
            url=XsUri(str(origin)),
            comment="What its sources come out of.",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=pin["sha256"])] if pin else [],
        )
    )
    return component


def _package(requirement: Requirement) -> Component:
    return _component(
        requirement.name, requirement.version, requirement.licence, facts={"marker": requirement.marker}
    )


def _has(what: Shipped, part: Part) -> bool:
    if part.only == "static":
        return not what.needs
    return not (part.only == "daemons" and what.is_library)
