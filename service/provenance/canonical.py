"""One byte string for a JSON value, however it was written.

Members sorted by name, no blanks, UTF-8, numbers in their shortest form and whole ones without a
point: a laboratory system that reads a result and writes it again (345.0 becomes 345 in JavaScript)
has not changed it. RFC 8785 differs in the order of names beyond the Basic Multilingual Plane and
in the exponents of numbers that no result holds.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

_GREATEST_EXACT = 2**53


def canonical_bytes(value: Any) -> bytes:
    """Return the canonical form of a JSON value; NumPy arrays of integers count as lists.

    Raises:
        TypeError: The value holds what no JSON document of ours can: another type, an integer of
            more than 64 bits, a name that is no string.
    """
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(_whole_numbers(value), option=options)


def digest_json(value: Any) -> str:
    """Return the SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < _GREATEST_EXACT
        return int(value) if whole else value
    if isinstance(value, Mapping):
        return {name: _whole_numbers(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers(item) for item in value]
    return value
