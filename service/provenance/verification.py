"""Checks a result file without the service that made it: its statement, itself, its image."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.errors import KaryonError
from service.images.decode import ImageLimits, decode_image
from service.outputs.digests import digest_pixels
from service.provenance.envelope import EnvelopeError, unseal
from service.provenance.keys import PublicKey
from service.provenance.statement import PARTS, make_statement

Outcome = Literal["passed", "failed", "not checked"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        outcome: How it went; `not checked` says so rather than nothing.
        detail: In a sentence.
    """

    name: str
    outcome: Outcome
    detail: str


class MalformedResultError(ValueError):
    """The file is no result; the message says why."""


def read_result(data: bytes) -> dict[str, Any]:
    """Parse a result file strictly.

    Args:
        data: JSON in UTF-8.

    Returns:
        The document.

    Raises:
        MalformedResultError: It is no JSON object, or one of its objects has a member twice, of
            which two readers may see different ones.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise MalformedResultError("a member stands twice in one object")
        return members

    def refuse(constant: str) -> None:
        raise MalformedResultError(f"{constant} is no JSON")

    try:
        document = json.loads(data, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, MalformedResultError) else "it is no JSON"
        raise MalformedResultError(f"The file is no result: {reason}.") from error
    if not isinstance(document, dict):
        raise MalformedResultError("The file is no result: it is no JSON object.")
    return document


def verify_result(
    document: Mapping[str, Any],
    public_keys: Mapping[str, PublicKey],
    *,
    image: bytes | None = None,
    partial: bool = False,
) -> list[Check]:
    """Check a result against its signed statement.

    Args:
        document: The result, as `read_result` returns it.
        public_keys: The keys to trust.
        image: The image file that it is said to be about.
        partial: Whether `nuclei` and `mask` may be missing, as records leave them out.

    Returns:
        Every check in the order made; after a failed signature nothing else is looked at, because
        nothing else could be believed.
    """
    if "provenance" not in document:
        return [Check("signature", "failed", "The result carries no signed statement.")]
    try:
        keys = {key_id: item.key for key_id, item in public_keys.items()}
        statement, key_id = unseal(document["provenance"], keys)
    except EnvelopeError as error:
        return [Check("signature", "failed", f"{error}.".capitalize())]
    checks = [Check("signature", "passed", f"Signed by the key {key_id}.")]
    checks += _check_statement(document, statement, partial=partial)
    checks += _check_image(statement, image)
    return checks


def is_verified(checks: list[Check]) -> bool:
    """Tell whether nothing failed."""
    return all(check.outcome != "failed" for check in checks)


def _check_statement(
    document: Mapping[str, Any], statement: Mapping[str, Any], *, partial: bool
) -> list[Check]:
    try:
        predicate = statement["predicate"]
        expected = make_statement(
            document,
            labels_sha256=predicate["outputs"]["labels_sha256"],
            libraries=predicate["software"]["libraries"],
        )
        signed = _digests(statement)
        found = _digests(expected)
    except (KeyError, TypeError, AttributeError) as error:
        detail = f"The result is not of the shape that was signed: {error}."
        return [Check("result", "failed", detail)]
    checks = []
    # What is not in the predicate by name is covered by the digest of the whole.
    different = _differences(expected["predicate"], predicate)
    if different:
        detail = f"The result differs from what was signed in {', '.join(different)}."
        checks.append(Check("figures", "failed", detail))
    else:
        checks.append(
            Check("figures", "passed", "Identity, input, model, parameters and count as signed.")
        )
    types = ("_type", "predicateType")
    same = signed.get("result") == found["result"] and all(
        statement.get(name) == expected[name] for name in types
    )
    checks.append(
        Check("result", "passed", "Every member is as it was signed.")
        if same
        else Check("result", "failed", "A member was changed, added or removed.")
    )
    named = [name for name in PARTS if name in signed or name in found]
    return checks + [_check_part(name, signed, found, partial=partial) for name in named]


def _check_part(
    name: str, signed: Mapping[str, str], found: Mapping[str, str], *, partial: bool
) -> Check:
    if name not in found:
        detail = f"`{name}` was signed and is not in the file"
        if partial:
            return Check(name, "not checked", f"{detail}.")
        return Check(name, "failed", f"{detail}; --partial allows it, records leave it out.")
    if signed.get(name) != found[name]:
        return Check(name, "failed", f"`{name}` is not what was signed.")
    return Check(name, "passed", f"`{name}` is as it was signed.")


def _check_image(statement: Mapping[str, Any], image: bytes | None) -> list[Check]:
    if image is None:
        return [Check("image", "not checked", "No image was given.")]
    signed = statement["predicate"]["input"]
    if hashlib.sha256(image).hexdigest() == signed["sha256"]:
        checks = [Check("image", "passed", "The file is the one that was segmented.")]
    else:
        checks = [Check("image", "failed", "The file is another than the one segmented.")]
    try:
        side = max(signed["width"], signed["height"])
        limits = ImageLimits(max_pixels=side * side, min_side_px=1)
        pixels = decode_image(image, limits).pixels
    except KaryonError as error:
        return [*checks, Check("pixels", "failed", f"The image cannot be decoded: {error}")]
    if digest_pixels(pixels) == signed["pixel_sha256"]:
        return [*checks, Check("pixels", "passed", "It decodes to the pixels that were segmented.")]
    return [*checks, Check("pixels", "failed", "It decodes to other pixels.")]


def _digests(statement: Mapping[str, Any]) -> dict[str, str]:
    return {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}


def _differences(expected: Any, signed: Any, path: str = "") -> list[str]:
    """Return the paths of what differs, at most a few."""
    if isinstance(expected, Mapping) and isinstance(signed, Mapping):
        names = sorted({*expected, *signed})
        found = [
            difference
            for name in names
            for difference in _differences(
                expected.get(name), signed.get(name), f"{path}.{name}" if path else name
            )
        ]
        return found[:5]
    # JSON has one kind of number; but true is none.
    same = expected == signed and isinstance(expected, bool) == isinstance(signed, bool)
    return [] if same else [path]
