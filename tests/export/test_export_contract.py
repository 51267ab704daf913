import hashlib
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from export import contract as contract_module
from export.contract import (
    TrainedRun,
    build_contract,
    check_contract,
    encoder_origin,
    read_run,
)
from export.errors import ExportRefusedError
from service.errors import ModelContractError
from service.inference.contract import CONTRACT_KEY, parse_contract
from training.revision import source_revision


def test_the_contract_tells_where_the_weights_come_from(tiny_run: TrainedRun) -> None:
    contract = build_contract(tiny_run, name="tiny", version="0.1.0")
    config = (tiny_run.folder / "config.json").read_bytes()
    assert contract.training.config_sha256 == hashlib.sha256(config).hexdigest()
    (source,) = contract.training.data
    assert source.licence == "CC0-1.0"
    assert source.attribution.startswith("Amgad")
    assert source.use == (
        "training: 3 images of 1 patient or slide (nucls_test); "
        "validation and calibration: 1 image of 1 patient or slide (tnbc_p07)"
    )
    assert contract.training.encoder_weights == "none"
    assert contract.architecture == "unet"
    assert contract.output.channels == ("nucleus", "distance")
    assert contract.input.mpp == 0.25
    assert "Research use only" in contract.description


def test_the_divisor_is_that_of_the_architectures(tiny_run: TrainedRun) -> None:
    from training.architectures import DIVISOR  # noqa: PLC0415  loads Keras

    assert build_contract(tiny_run, name="a", version="1.0.0").input.divisor == DIVISOR


def test_what_is_written_is_read_back_by_the_service(tiny_run: TrainedRun) -> None:
    contract = build_contract(tiny_run, name="tiny", version="0.1.0")
    assert parse_contract(contract.to_metadata()) == contract


@pytest.mark.parametrize(
    ("name", "version"), [("Tiny Model", "1.0.0"), ("tiny", "1.0"), ("../tiny", "1.0.0")]
)
def test_a_bad_name_or_version_is_refused(tiny_run: TrainedRun, name: str, version: str) -> None:
    with pytest.raises(ExportRefusedError, match="cannot be filled in"):
        build_contract(tiny_run, name=name, version=version)


def test_the_json_schema_is_asked_too(
    tiny_run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = build_contract(tiny_run, name="tiny", version="0.1.0")
    document = json.loads(contract.to_metadata()[CONTRACT_KEY])
    document["input"]["colour"] = "BGR"
    metadata = {CONTRACT_KEY: json.dumps(document)}
    with pytest.raises(ModelContractError, match="colour"):
        check_contract(metadata)
    # A reader in another language has the schema alone.
    monkeypatch.setattr(contract_module, "parse_contract", lambda _: contract)
    with pytest.raises(ExportRefusedError, match=r"schema\.json at \$\.input\.colour"):
        check_contract(metadata)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefusedError, match="no finished run folder"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExportRefusedError, match="no finished run folder"):
        read_run(tmp_path)


def test_images_of_weight_zero_were_not_learnt_from(tiny_run: TrainedRun) -> None:
    assert tiny_run.trained_stems() == {"nucls_test_1", "nucls_test_2", "nucls_test_5"}
    (source,) = tiny_run.config.data
    watched = tiny_run.config.model_copy(
        update={"data": (source.model_copy(update={"weight": 0.0}),)}
    )
    run = replace(tiny_run, config=watched)
    assert run.trained_stems() == set()
    (described,) = build_contract(run, name="tiny", version="0.1.0").training.data
    assert described.use == "validation and calibration: 1 image of 1 patient or slide (tnbc_p07)"


def test_images_of_the_stage_before_were_learnt_from_too(tiny_run: TrainedRun) -> None:
    unseen = {name: {**record, "train": {}} for name, record in tiny_run.splits.items()}
    alone = replace(tiny_run, splits=unseen)
    fine_tuned = replace(alone, earlier=tiny_run)
    assert alone.trained_stems() == set()
    assert fine_tuned.trained_stems() == tiny_run.trained_stems() != set()
    assert fine_tuned.stages == [tiny_run, fine_tuned]


def test_data_of_the_stage_before_is_attributed_too(tiny_run: TrainedRun) -> None:
    (source,) = tiny_run.config.data
    other = source.model_copy(update={"name": "other", "licence": "CC-BY-4.0"})
    pretrained = replace(
        tiny_run,
        config=tiny_run.config.model_copy(update={"data": (source, other)}),
        splits={**tiny_run.splits, "other": {"train": {"a": ["a_1", "a_2"]}, "validation": {}}},
    )
    alone = build_contract(tiny_run, name="tiny", version="0.1.0").training.data
    both = build_contract(
        replace(tiny_run, earlier=pretrained), name="tiny", version="0.1.0"
    ).training.data
    assert both[0] == alone[0]
    assert (both[1].name, both[1].licence) == ("other", "CC-BY-4.0")
    assert both[1].use == "training: 2 images of 1 patient or slide (a)"


def test_an_encoder_file_is_named_without_its_folder() -> None:
    assert encoder_origin("/home/someone/weights/mobilenet_v2.h5") == "mobilenet_v2.h5"
    assert encoder_origin("imagenet") == "imagenet"
    assert encoder_origin(None) == "none"


def test_the_source_revision_is_a_commit_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", source_revision())

    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert source_revision() == "unknown"
