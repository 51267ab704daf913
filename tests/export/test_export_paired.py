"""Two model files on the same images: the command on real tiny models, and the verdict's rules."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from export.__main__ import app
from export.bootstrap import LEAST_GROUPS
from export.evaluate import Evaluation, choose_samples, evaluate
from export.onnx_file import read, write
from export.paired import LEAST_UNITS, Difference, Paired, compare, judge
from service.inference.contract import MetricsEntry
from service.inference.session import ModelSession
from service.segmenter import Segmenter
from training.datasets import Sample


@pytest.fixture(scope="module")
def strict_file(tiny_session: ModelSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with thresholds at which it misses most nuclei."""
    proto, contract = read(tiny_session.path)
    separation = contract.separation.model_copy(
        update={"probability_threshold": 0.9, "min_area_um2": 30.0}
    )
    renamed = {"version": "0.2.0", "separation": separation}
    path = tmp_path_factory.mktemp("strict") / "model.onnx"
    write(proto, contract.model_copy(update=renamed), path)
    return path


@pytest.fixture(scope="module")
def quarters(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight real images of 256 px of two patients, cut from the committed tiles."""
    root = tmp_path_factory.mktemp("quarters")
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for sample in samples:
        if sample.group.startswith("tnbc"):
            pixels, labels = sample.read()
            for number, (y, x) in enumerate(((0, 0), (0, 256), (256, 0), (256, 256))):
                window = np.s_[y : y + 256, x : x + 256]
                name = f"{sample.group}_{number}.png"
                cv2.imwrite(str(root / "images" / name), pixels[window][..., ::-1])
                cv2.imwrite(str(root / "labels" / name), labels[window].astype(np.uint16))
    return root


@pytest.fixture(scope="module")
def evaluations(
    tiny_session: ModelSession, strict_file: Path, quarters: Path
) -> tuple[Evaluation, Evaluation]:
    chosen = choose_samples(quarters, None)
    sessions = (tiny_session, ModelSession.load(strict_file, provider="cpu"))
    plain, strict = (
        evaluate(Segmenter(session), chosen, dataset="d", split="s") for session in sessions
    )
    return plain, strict


def test_a_file_that_misses_most_nuclei_counts_worse(
    evaluations: tuple[Evaluation, Evaluation],
) -> None:
    plain, strict = evaluations
    paired = compare(plain, strict)
    assert (paired.verdict, paired.images, paired.units) == ("worse", 8, 8)
    # Two patients are too few to draw; their images are drawn.
    assert paired.resampled == "images"
    mape = paired.differences["count_mape"]
    assert mape.old == pytest.approx(plain.pooled["count_mape"])
    assert mape.new == pytest.approx(strict.pooled["count_mape"])
    for name in ("dice", "aji", "pq", "f1_at_0.5"):
        assert paired.differences[name].old == pytest.approx(plain.pooled[name])
    bias = paired.differences["count_bias_size"]
    assert bias.new == pytest.approx(abs(strict.pooled["count_bias"]))
    for difference in paired.differences.values():
        assert difference.interval is not None
        low, high = difference.interval
        assert low <= difference.new - difference.old <= high


def test_exchanged_files_have_the_mirrored_difference(
    evaluations: tuple[Evaluation, Evaluation],
) -> None:
    there, back = compare(*evaluations), compare(*evaluations[::-1])
    assert back.verdict == "better"
    one, other = there.differences["count_mape"], back.differences["count_mape"]
    assert one.interval is not None
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


def test_the_same_file_shows_no_difference(evaluations: tuple[Evaluation, Evaluation]) -> None:
    paired = compare(evaluations[0], evaluations[0])
    assert paired.verdict == "no difference shown"
    # Paired: what the images have in common cancels, and nothing is left.
    assert all(d.interval == (0.0, 0.0) for d in paired.differences.values())


def _differences(
    mape: tuple[float, float] | None, f1: tuple[float, float] = (-0.01, 0.01)
) -> dict[str, Difference]:
    return {"count_mape": Difference(0.2, 0.1, mape), "f1_at_0.5": Difference(0.8, 0.7, f1)}


@pytest.mark.parametrize(
    ("differences", "units", "verdict", "words"),
    [
        (_differences((-0.15, -0.02)), 8, "better", "from 20.0% to 10.0%, by -15.0 to -2.0"),
        (_differences((-0.15, 0.01)), 8, "no difference shown", "which holds 0"),
        (_differences((0.01, 0.2)), 8, "worse", "by +1.0 to +20.0 points"),
        (_differences((-0.15, -0.02), (-0.2, -0.05)), 8, "no difference shown", "errors cancel"),
        (_differences((-0.15, -0.02)), 5, "no difference shown", "5 images are too few"),
        (_differences(None), 1, "no difference shown", "too few"),
    ],
)
def test_the_verdict_follows_the_interval(
    differences: dict[str, Difference], units: int, verdict: str, words: str
) -> None:
    found, reason = judge(differences, units)
    assert found == verdict
    assert words in reason


def test_few_units_never_show_a_difference() -> None:
    assert LEAST_UNITS > LEAST_GROUPS


def test_other_images_are_refused(evaluations: tuple[Evaluation, Evaluation]) -> None:
    plain, strict = evaluations
    fewer = Evaluation(
        **{name: getattr(strict, name) for name in strict.__slots__} | {"images": strict.images[1:]}
    )
    with pytest.raises(ValueError, match="different images"):
        compare(plain, fewer)


def test_the_command_gives_a_verdict_and_a_status(
    tiny_session: ModelSession, strict_file: Path, quarters: Path, tmp_path: Path
) -> None:
    files = [str(tiny_session.path), str(strict_file)]
    worse = CliRunner().invoke(app, ["compare", *files, str(quarters), "--out", str(tmp_path)])
    assert worse.exit_code == 3, worse.output
    assert "worse for counting: the mean error of an image's count goes from" in worse.output
    document = json.loads((tmp_path / "comparison.json").read_text("utf-8"))
    assert document["verdict"] == "worse"
    assert document["models"]["new"]["version"] == "0.2.0"
    assert len(document["counts"]) == 8
    assert all(row["new"] < row["annotated"] for row in document["counts"])
    better = CliRunner().invoke(app, ["compare", *files[::-1], str(quarters)])
    assert better.exit_code == 0, better.output
    assert "better for counting" in better.output


def test_images_that_a_file_was_trained_on_are_named(
    tiny_session: ModelSession,
    strict_file: Path,
    test_data: Path,
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    arguments = ["compare", str(tiny_session.path), str(strict_file), str(test_data)]
    result = CliRunner().invoke(app, [*arguments, "--groups", "nucls_test"])
    assert result.exit_code == 0, result.output
    assert "the old file was trained on nucls_test: its figures there say nothing" in result.output
    assert "3 images are too few" in result.output
    # Measured alone it says so, too, and its file.
    alone = ["evaluate", str(tiny_session.path), str(test_data), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, alone)
    assert result.exit_code == 0, result.output
    assert "the model file was trained on nucls_test" in result.output
    document = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert document["seen"]["training"] == ["nucls_test"]
    held_out = evaluate(
        Segmenter(tiny_session), [samples[-1]], dataset="fixtures", split="one"
    ).seen
    assert held_out["training"] == []


def test_images_that_a_file_was_tuned_on_are_named(
    tiny_session: ModelSession, strict_file: Path, quarters: Path, tmp_path: Path
) -> None:
    """Its thresholds were chosen for the least count bias on those very patients."""
    proto, contract = read(strict_file)
    entry = MetricsEntry(
        dataset="mydata",
        split="validation and calibration: tnbc_p07, tnbc_p08",
        images=8,
        values={"dice": 0.8},
    )
    tuned_file = tmp_path / "model.onnx"
    write(proto, contract.model_copy(update={"metrics": (entry,)}), tuned_file)
    files = [str(tuned_file), str(tiny_session.path)]
    out = ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["compare", *files, str(quarters), *out])
    assert result.exit_code == 0, result.output
    assert "better for counting" in result.output
    assert "the old file's thresholds were chosen on tnbc_p07, tnbc_p08" in result.output
    # Both runs chose their best epoch on the patient that their recipe holds out.
    assert "the new file's best epoch was chosen on tnbc_p07:" in result.output
    document = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert document["seen"] == {
        "old": {
            "training": [],
            "best epoch": ["tnbc_p07"],
            "thresholds": ["tnbc_p07", "tnbc_p08"],
        },
        "new": {"training": [], "best epoch": ["tnbc_p07"], "thresholds": []},
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("same", "are the same file; name two"),
        ("group", "no group matches"),
        ("empty", "no image has an annotated nucleus"),
        ("model", "note.onnx: onnxruntime cannot load it"),
    ],
)
def test_mistakes_are_one_message(
    files: str, words: str, tiny_session: ModelSession, strict_file: Path, tmp_path: Path
) -> None:
    old, new = tiny_session.path, strict_file
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "p1_1.png"), np.full((64, 64, 3), 240, np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / "p1_1.png"), np.zeros((64, 64), np.uint16))
    if files == "same":
        new = old
    elif files == "model":
        new = tmp_path / "note.onnx"
        new.write_text("no model", "utf-8")
    groups = ["--groups", "p7"] if files == "group" else []
    result = CliRunner().invoke(app, ["compare", str(old), str(new), str(tmp_path), *groups])
    assert result.exit_code == 1, result.output
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_the_document_is_the_whole_comparison(evaluations: tuple[Evaluation, Evaluation]) -> None:
    paired = compare(*evaluations)
    document = json.loads(json.dumps(paired.document()))
    assert set(document) == set(Paired.__slots__)
