"""What is signed about a result: an in-toto Statement, version 1.

`subject` names what the statement is about, by digest: the result document, its optional parts
(left out by records that do not keep them), and the labels. `predicate` says how they came about:
input, model, parameters, versions, outputs. Source: in-toto Attestation Framework, Statement v1.
"""

import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

import cv2
import numpy as np
import orjson

from service.provenance.canonical import digest_json
from service.provenance.envelope import EnvelopeError, read_payload

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:karyon:segmentation:v1"
PARTS: Final = ("nuclei", "mask")
"""Members of a result that have digests of their own."""


@functools.cache
def library_versions() -> Mapping[str, str]:
    """Return the versions of the libraries that numbers depend on, by distribution name."""
    versions = {"numpy": np.__version__, "opencv": cv2.__version__}
    for runtime in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"):
        try:
            versions[runtime] = metadata.version(runtime)
        except metadata.PackageNotFoundError:
            continue
    return versions


def recorded_labels(document: Mapping[str, Any]) -> str | None:
    """Return the digest of a signed result's labels, from its statement as it stands.

    The signature is not checked. None where the result is not signed, or not by this service.
    """
    try:
        payload, _, _ = read_payload(document["provenance"])
        digest = orjson.loads(payload)["predicate"]["outputs"]["labels_sha256"]
    except (EnvelopeError, KeyError, TypeError, orjson.JSONDecodeError):
        return None
    return digest if isinstance(digest, str) else None


def without_parts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without its optional parts and its own signature."""
    return {
        name: member
        for name, member in document.items()
        if name not in PARTS and name != "provenance"
    }


def make_statement(
    document: Mapping[str, Any], *, labels_sha256: str, libraries: Mapping[str, str]
) -> dict[str, Any]:
    """Build the statement about a result.

    Args:
        document: The JSON answer, complete but for `provenance`.
        labels_sha256: Digest of the labels (`service.outputs.digests`).
        libraries: As `library_versions` returns.

    Returns:
        The statement, JSON-able.

    Raises:
        KeyError: The document is no result.
        TypeError: As in `canonical_bytes`.
    """
    image = document["image"]
    digests = {"result": digest_json(without_parts(document)), "labels": labels_sha256}
    digests |= {name: digest_json(document[name]) for name in PARTS if name in document}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": {
                name: document[name] for name in ("id", "created_utc", "status", "identity")
            },
            "input": {
                name: image[name]
                for name in (
                    "sha256", "pixel_sha256", "width", "height", "format", "mpp", "mpp_source",
                )
            },
            "model": document["model"],
            "parameters": document["parameters"],
            "software": {**document["software"], "libraries": dict(libraries)},
            "provider": document["provider"],
            "precision": document.get("precision"),
            "outputs": {
                "count": document["count"],
                "count_interval": document.get("count_interval"),
                "labels_sha256": labels_sha256,
            },
        },
    }  # fmt: skip
