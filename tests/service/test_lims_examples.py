"""The examples of docs/lims.md are what the service gives, and the page shows the files."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import hl7
import orjson
import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from typer.testing import CliRunner

from service.__main__ import app
from service.api.schemas import SegmentationAnswer


@pytest.fixture(scope="module")
def maker(repository: Path) -> ModuleType:
    """The script that makes them."""
    path = repository / "benchmarks" / "lims_examples.py"
    specification = importlib.util.spec_from_file_location("lims_examples", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "docs" / "lims"


def run(*arguments: object) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit)
    return outcome.exit_code, outcome.output


def test_the_page_shows_the_files(maker: ModuleType, repository: Path) -> None:
    guide = (repository / "docs" / "lims.md").read_text(encoding="utf-8")
    assert maker.render(guide) == guide, "python -m benchmarks.lims_examples"
    for name in maker.FILES:
        assert f"<!-- example {name} -->" in guide
    assert "example json -->\n```json\n{" in guide


def test_the_files_are_valid_and_of_one_result(folder: Path) -> None:
    result = orjson.loads((folder / "result.json").read_bytes())
    SegmentationAnswer.model_validate(result)
    bundle = (folder / "bundle.fhir.json").read_bytes()
    Bundle.model_validate_json(bundle)
    text = (folder / "message.hl7").read_bytes().decode()
    assert parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).validate()
    assert str(hl7.parse(text)["OBX"][0][5]) == str(result["count"])
    assert orjson.loads(bundle)["entry"][1]["resource"]["valueQuantity"]["value"] == result["count"]
    features = orjson.loads((folder / "nuclei.geojson").read_bytes())
    assert features["karyon"]["id"] == result["id"]
    rows = (folder / "nuclei.csv").read_bytes().decode().splitlines()
    annotations = orjson.loads((folder / "coco.json").read_bytes())["annotations"]
    assert len(features["features"]) == len(rows) - 1 == len(annotations) == result["count"] > 0


def test_verify_says_what_was_checked(folder: Path, tmp_path: Path) -> None:
    keys = ("--key", folder / "karyon-keys.json")
    code, output = run("verify", folder / "result.json", *keys, "--image", folder / "tile.png")
    assert code == 0, output
    assert output.count("passed") == 5
    assert output.endswith("verified\n")
    changed = tmp_path / "changed.json"
    document = orjson.loads((folder / "result.json").read_bytes())
    changed.write_bytes(orjson.dumps({**document, "count": document["count"] + 1}))
    code, output = run("verify", changed, *keys)
    assert code == 1
    assert "differs from what was signed in outputs.count" in output
    assert "NOT VERIFIED" in output
    (tmp_path / "empty").mkdir()
    assert run("verify", changed, "--key", tmp_path / "empty")[0] == 2
    assert run("verify", tmp_path / "nowhere.json", *keys)[0] == 2
    assert run("verify", folder / "tile.png", *keys)[0] == 2


def test_what_the_service_has_on_record_is_verified_and_replayed(
    folder: Path, tmp_path: Path
) -> None:
    keys, tile = ("--key", folder / "karyon-keys.json"), ("--image", folder / "tile.png")
    answer = orjson.loads((folder / "result.json").read_bytes())
    record = tmp_path / "record.json"  # as GET /results/{id} tells it
    record.write_bytes(orjson.dumps({"id": answer["id"], "held": False, "document": answer}))
    code, output = run("verify", record, *keys, *tile)
    assert code == 0, output
    assert output.endswith("audit verify checks what came after it.\nverified\n")
    changed = {**answer, "count": answer["count"] + 1}
    record.write_bytes(orjson.dumps({"id": answer["id"], "held": False, "document": changed}))
    code, output = run("verify", record, *keys)
    assert (code, output.endswith("NOT VERIFIED\n")) == (1, True)
    code, output = run("replay", record, *tile, "--threads", 1)
    assert f"recorded {changed['count']}, now" in output, output


def test_replay_compares(folder: Path, tmp_path: Path, tiny_models_dir: Path) -> None:
    image = ("--image", folder / "tile.png", "--threads", 1)
    document = orjson.loads((folder / "result.json").read_bytes())
    _, output = run("replay", folder / "result.json", *image)
    # Another processor may round a pixel at the threshold the other way.
    now = int(output.split("now ")[1].split()[0])
    assert abs(now - document["count"]) <= 1, output
    changed = tmp_path / "changed.json"
    changed.write_bytes(orjson.dumps({**document, "count": document["count"] + 2}))
    code, output = run("replay", changed, *image)
    assert code == 1
    assert "DIFFERENT" in output
    wrong_image = Path(__file__).parents[1] / "data" / "images" / "nucls_test_2.png"
    assert run("replay", folder / "result.json", "--image", wrong_image)[0] == 2
    assert run("replay", folder / "result.json", *image, "--models-dir", tiny_models_dir)[0] == 2


def test_replay_of_a_tiny_model_is_exact(
    tiny_models_dir: Path, test_data: Path, tmp_path: Path, maker: ModuleType
) -> None:
    """The same machine gives the same labels, with every source of mpp and every threshold."""
    assert "lims_examples" not in sys.modules
    image = test_data / "images" / "nucls_test_1.png"
    session = maker.ModelRepository.open(tiny_models_dir, default="tiny", provider="cpu").get()
    keyring = maker.open_keyring(tmp_path / "data")
    for options in ({}, {"mpp": 0.4}, {"threshold": 0.6, "min_area_um2": 7.0}):
        parameters = maker.SegmentParameters(**options)
        result = maker.make_result(
            image.read_bytes(), maker.Segmenter(session), parameters, maker.ImageLimits()
        )
        body, _ = maker.represent(result, "application/json", parameters, keyring=keyring)
        (tmp_path / "result.json").write_bytes(body)
        code, output = run(
            "replay", tmp_path / "result.json", "--image", image, "--models-dir", tiny_models_dir
        )
        assert code == 0, output
        assert "labels      the same" in output
