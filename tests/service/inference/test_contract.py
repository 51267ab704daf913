"""The model contract: what is accepted, what is refused, and how the refusal reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import service.inference.contract as contract_module
from service.errors import ModelContractError
from service.inference.contract import (
    CONTRACT_KEY,
    ModelContract,
    contract_json_schema,
    parse_contract,
)

Document = dict[str, Any]
MakeDocument = Callable[..., Document]

SCHEMA_FILE = Path(contract_module.__file__).with_name("contract_v1.schema.json")


def with_field(document: Document, path: str, value: Any) -> Document:
    """A deep copy with one field replaced; `...` removes it."""
    changed: Document = json.loads(json.dumps(document))
    *parents, last = path.split(".")
    target = changed
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return changed


def parse(document: Any) -> ModelContract:
    return parse_contract({CONTRACT_KEY: json.dumps(document)})


def test_valid_contract_survives_the_round_trip(contract_document: MakeDocument) -> None:
    document = contract_document(
        count_interval={
            "level": 0.9,
            "lower_ratio": 0.8,
            "upper_ratio": 1.3,
            "allowance": 2.5,
            "method": "ratio quantiles",
            "images": 7,
            "patients": 2,
            "test_time_augmentation": "flips4",
            "coverage": 0.91,
        },
        quality_reference={"mean_red": 180.5},
        metrics=[{"dataset": "tnbc", "split": "07-08", "images": 7, "values": {"dice": 0.83}}],
    )
    contract = parse(document)
    assert json.loads(contract.to_metadata()[CONTRACT_KEY]) == document
    assert parse_contract(contract.to_metadata()) == contract


def test_committed_schema_is_the_one_of_the_models() -> None:
    committed = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert committed == contract_json_schema(), (
        "run: python -c 'import json; from service.inference.contract import contract_json_schema; "
        "print(json.dumps(contract_json_schema(), indent=2))' "
        "> service/inference/contract_v1.schema.json"
    )


def test_committed_schema_is_valid_and_accepts_a_contract(contract_document: MakeDocument) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(contract_document(), schema, jsonschema.Draft202012Validator)


ACCURACY = {
    "dataset": "tnbc",
    "split": "validation",
    "images": 7,
    "dice_change": -0.001,
    "count_bias_change_points": 0.4,
}


def test_variants_and_reduced_precisions_survive_the_round_trip(
    contract_document: MakeDocument,
) -> None:
    variant = contract_document(
        variant={"precision": "int8", "reference_sha256": "a" * 64, "accuracy": ACCURACY}
    )
    reference = contract_document(
        weight_storage="float16",
        reduced_precisions=[{"precision": "bf16", "provider": "openvino", "accuracy": ACCURACY}],
    )
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    for document in (variant, reference):
        assert json.loads(parse(document).to_metadata()[CONTRACT_KEY]) == document
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)


def test_files_from_before_variants_are_still_read(contract_document: MakeDocument) -> None:
    document = contract_document()
    for field in ("weight_storage", "variant", "reduced_precisions"):
        del document[field]
    contract = parse(document)
    assert contract.variant is None
    assert contract.reduced_precisions == ()
    assert contract.weight_storage == "float32"


INVALID = [
    ("variant", {"precision": "int8"}, "variant"),
    (
        "variant",
        {"precision": "bf16", "reference_sha256": "a" * 64, "accuracy": ACCURACY},
        "variant",
    ),
    ("reduced_precisions", [{"precision": "int8"}], "reduced_precisions"),
    ("weight_storage", "int8", "weight_storage"),
    ("name", ..., "name"),
    ("name", "Bad Name/../x", "name"),
    ("version", "1.0", "version"),
    ("version", "01.0.0", "version"),
    ("created_utc", "yesterday", "created_utc"),
    ("surprise", 1, "surprise"),
    ("input", ..., "input"),
    ("input.dtype", "float32", "input.dtype"),
    ("input.layout", "NCHW", "input.layout"),
    ("input.colour", "BGR", "input.colour"),
    ("input.mpp", 0.0, "input.mpp"),
    ("input.mpp", "0.25", "input.mpp"),
    ("input.divisor", 0, "input.divisor"),
    ("output.channels", [], "output.channels"),
    ("output.channels", ["distance", "nucleus"], "output.channels"),
    ("output.channels", ["nucleus", "nucleus"], "output.channels"),
    ("separation.probability_threshold", 1.5, "separation.probability_threshold"),
    ("separation.probability_threshold", 0.0, "separation.probability_threshold"),
    ("separation.seed_threshold", -0.1, "separation.seed_threshold"),
    ("separation.min_area_um2", -1.0, "separation.min_area_um2"),
    ("training.config_sha256", "xyz", "training.config_sha256"),
    ("training.data", [], "training.data"),
    ("verification.max_difference", 2, "verification.max_difference"),
]


@pytest.mark.parametrize(("path", "value", "named"), INVALID)
def test_invalid_field_is_named_by_both_readers(
    contract_document: MakeDocument, path: str, value: Any, named: str
) -> None:
    document = with_field(contract_document(), path, value)
    with pytest.raises(ModelContractError, match=named.replace(".", r"\.")):
        parse(document)
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("input.divisor", 48, "divisor 48 does not divide tile_px 256"),
        ("input.halo_px", 128, "halo_px 128 leaves nothing of tile_px 256"),
        ("input.halo_px", 120, "halo_px 120 leaves nothing of tile_px 256"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    contract_document: MakeDocument, path: str, value: Any, message: str
) -> None:
    with pytest.raises(ModelContractError, match=message):
        parse(with_field(contract_document(), path, value))


def test_interval_the_wrong_way_round_is_refused(contract_document: MakeDocument) -> None:
    interval = {
        "level": 0.9,
        "lower_ratio": 1.3,
        "upper_ratio": 0.8,
        "method": "m",
        "images": 7,
        "patients": 2,
    }
    with pytest.raises(ModelContractError, match="lower_ratio is above upper_ratio"):
        parse(contract_document(count_interval=interval))


@pytest.mark.parametrize(
    ("field", "value"),
    [("allowance", -1.0), ("test_time_augmentation", "flips5"), ("coverage", 1.2)],
)
def test_interval_fields_are_bounded(
    contract_document: MakeDocument, field: str, value: Any
) -> None:
    interval = {
        "level": 0.9,
        "lower_ratio": 0.8,
        "upper_ratio": 1.3,
        "method": "m",
        "images": 7,
        "patients": 2,
    }
    plain = parse(contract_document(count_interval=interval)).count_interval
    assert plain is not None
    assert (plain.allowance, plain.test_time_augmentation, plain.coverage) == (0.0, "none", None)
    with pytest.raises(ModelContractError, match=rf"count_interval\.{field}"):
        parse(contract_document(count_interval={**interval, field: value}))


def test_nan_is_refused(contract_document: MakeDocument) -> None:
    text = json.dumps(contract_document(quality_reference={"mean_red": 1.0}))
    with pytest.raises(ModelContractError, match="quality_reference"):
        parse_contract({CONTRACT_KEY: text.replace('"mean_red": 1.0', '"mean_red": NaN')})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"no 'karyon\.contract' metadata"),
        ({CONTRACT_KEY: "{"}, "is not JSON"),
        ({CONTRACT_KEY: "[1]"}, "is not a JSON object"),
        ({CONTRACT_KEY: "{}"}, "no contract_version"),
        # Version before fields: everything else would be missing here.
        ({CONTRACT_KEY: '{"contract_version": 2}'}, "contract version 2 is unknown.* version 1"),
        ({CONTRACT_KEY: '{"contract_version": "1"}'}, "contract version '1' is unknown"),
        ({CONTRACT_KEY: '{"contract_version": true}'}, "contract version True is unknown"),
    ],
)
def test_what_is_no_contract_is_refused(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(ModelContractError, match=message):
        parse_contract(metadata)
