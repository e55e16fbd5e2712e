"""A CycloneDX bill of materials for the bundle: its models, the data and the libraries that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6

LIBRARIES = (
    "torch",
    "pytorch-lightning",
    "neural-compressor",
    "torch-pruning",
    "onnx",
    "onnxruntime",
    "aquacrop",
    "pcse",
    "numpy",
)


def mlbom(as_of: int, models: Mapping[str, bytes], hashes: Mapping[str, str], lineage: Mapping[str, Any]) -> str:
    """Write the bill as CycloneDX 1.6 JSON, without time stamps and random ids: same inputs, same text.

    Args:
        as_of: season.
        models: ONNX bytes by name.
        hashes: SHA-256 of each.
        lineage: of the bundle.
    """
    bom = Bom(serial_number=UUID(hashes[min(hashes)][:32]))
    bundle = Component(
        name="headland-bundle", version=str(as_of), type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="bundle"
    )
    bom.metadata.component = bundle
    for name in sorted(models):
        bom.components.add(
            Component(
                name=f"{name}.onnx",
                version=str(as_of),
                type=ComponentType.MACHINE_LEARNING_MODEL,
                bom_ref=f"model-{name}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashes[name])],
                properties=[Property(name="headland:bytes", value=str(len(models[name])))],
            )
        )
    for path, md5 in lineage["data_versions"].items():
        hashed = [HashType(alg=HashAlgorithm.MD5, content=md5.removesuffix(".dir"))]
        bom.components.add(
            Component(name=path, version=md5, type=ComponentType.DATA, bom_ref=f"data-{path}", hashes=hashed)
        )
    for library in LIBRARIES:
        found = version(library)
        bom.components.add(
            Component(name=library, version=found, type=ComponentType.LIBRARY, bom_ref=f"library-{library}")
        )
    bom.register_dependency(bundle, bom.components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop("timestamp", None)
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
