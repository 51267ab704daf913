import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from export import convert as convert_module
from export import release as release_module
from export.__main__ import app
from export.calibrate import calibrate
from export.contract import TrainedRun
from export.errors import ExportRefusedError
from export.evaluate import choose_samples, evaluate
from export.release import ReleaseOrder, check_held_out, release
from service.inference.repository import ModelRepository
from service.inference.session import ModelSession
from service.segmenter import Segmenter
from training.datasets import DatasetError

COARSE_GRID = {
    "probability_thresholds": (0.3, 0.4, 0.5, 0.6),
    "seed_thresholds": (0.4, 0.7),
    "min_areas_um2": (6.0, 12.0),
    "min_mean_probabilities": (0.0, 0.7),
}
COMMANDS = ("python -m training fit config.json", "python -m export model runs/tiny")


@pytest.fixture(scope="module", autouse=True)
def coarse_grid() -> Iterator[None]:
    """Thirty-two combinations instead of hundreds: the gates are tested here, not the search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            release_module,
            "calibrate",
            lambda images, **options: calibrate(images, **options, **COARSE_GRID),
        )
        yield


@pytest.fixture
def order(tiny_run: TrainedRun, test_data: Path, tmp_path: Path) -> ReleaseOrder:
    return ReleaseOrder(
        run_dir=tiny_run.folder,
        validation_dir=test_data,
        groups="07,08",
        name="tiny",
        version="0.1.0",
        out=tmp_path / "models",
        commands=COMMANDS,
    )


@pytest.fixture(scope="module")
def released(
    tiny_run: TrainedRun, test_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    data_root = tmp_path_factory.mktemp("data")
    (data_root / "nucls").symlink_to(test_data, target_is_directory=True)
    return release(
        ReleaseOrder(
            run_dir=tiny_run.folder,
            validation_dir=test_data,
            groups="07,08",
            name="tiny",
            version="0.1.0",
            out=tmp_path_factory.mktemp("models"),
            data_root=data_root,
            commands=COMMANDS,
        ),
        Console(quiet=True),
    )


def test_a_release_is_complete_and_leaves_no_scraps(released: Path) -> None:
    assert sorted(path.name for path in released.iterdir()) == [
        "calibration.json",
        "card.md",
        "golden.npz",
        "metrics.json",
        "model.onnx",
        "predictions.jpg",
    ]
    assert [path.name for path in released.parents[1].iterdir()] == ["tiny"]


def test_the_service_loads_the_release_and_serves_what_was_measured(
    released: Path, test_data: Path
) -> None:
    repository = ModelRepository.open(released.parents[1], default=None, provider="cpu", threads=0)
    session = repository.get("tiny:0.1.0")
    contract = session.contract
    samples = choose_samples(test_data, "07,08")
    again = evaluate(Segmenter(session), samples, dataset="data", split="again")
    (entry,) = contract.metrics
    assert entry.values == again.entry().values
    assert "tnbc_p07, tnbc_p08" in entry.split

    calibration = json.loads((released / "calibration.json").read_text())
    for name, value in contract.separation.model_dump().items():
        assert calibration["chosen"][name] == pytest.approx(value)
    # Calibration runs the network by itself; it must see what the segmenter sees.
    assert calibration["chosen"]["dice"] == pytest.approx(entry.values["dice"], abs=1e-4)
    assert calibration["chosen"]["f1"] == pytest.approx(entry.values["f1_at_0.5"], abs=1e-4)
    assert calibration["chosen"]["count_bias"] == pytest.approx(
        entry.values["count_bias"], abs=1e-4
    )
    assert contract.verification.tiles >= 8
    assert "keras" in contract.verification.against


def test_the_release_carries_what_its_few_training_images_support(released: Path) -> None:
    """Three images: enough to say how much tissue is usual, too few for the Gaussians."""
    repository = ModelRepository.open(released.parents[1], default=None, provider="cpu", threads=0)
    assert repository.get().contract.quality_reference == {
        "tissue.least_fraction": pytest.approx(0.1)
    }


def test_the_metrics_file_names_the_graph_that_was_measured(released: Path) -> None:
    document = json.loads((released / "metrics.json").read_text())
    assert document["model"]["name"] == "tiny"
    assert {image["stem"] for image in document["images"]} == {"tnbc_p07_1", "tnbc_p08_2"}


def test_the_card_tells_use_data_figures_thresholds_limits_and_commands(released: Path) -> None:
    card = (released / "card.md").read_text()
    assert card.startswith("# tiny 0.1.0\n")
    for words in (
        "Research use only; no medical device",
        "CC0-1.0",
        "Amgad et al., GigaScience 2022",
        "https://doi.org/10.1093/gigascience/giac037",
        "## Limits",
        *COMMANDS,
        '"architecture": "unet"',
    ):
        assert words in card
    values = json.loads((released / "metrics.json").read_text())["pooled"]
    assert f"| {values['dice']:.3f} |" in card
    assert f"| {values['count_bias']:+.1%} |" in card


def test_a_replacing_release_with_external_data_measured_beside(
    order: ReleaseOrder, released: Path, test_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(released.parents[1], order.out)
    elsewhere = tmp_path / "elsewhere"
    for kind in ("images", "labels"):
        (elsewhere / kind).mkdir(parents=True)
        content = (test_data / kind / "tnbc_p07_1.png").read_bytes()
        (elsewhere / kind / "a_1.png").write_bytes(content)
    spec = {
        "level": 0.9,
        "lower_ratio": 0.8,
        "upper_ratio": 1.2,
        "allowance": 2.0,
        "method": "split conformal by patient, 37 images of 8 patients",
        "images": 37,
        "patients": 8,
        "test_time_augmentation": "none",
        "coverage": 0.919,
    }
    intervals = tmp_path / "intervals.json"
    intervals.write_text(json.dumps({"count_interval": spec}), encoding="utf-8")
    orders = replace(
        order,
        external_dirs=(elsewhere,),
        intervals=intervals,
        description="Another one.",
        replace=True,
    )
    folder = release(orders, Console(quiet=True))
    contract = ModelSession.load(folder / "model.onnx", provider="cpu").contract
    assert contract.count_interval is not None
    assert contract.count_interval.model_dump() == spec
    card = " ".join((folder / "card.md").read_text().split())
    assert "meant to hold for 90% of images like the 37 of 8 patients calibrated on" in card
    assert "with each patient left out in turn it held for 92%" in card
    assert "Another one." in (folder / "card.md").read_text()
    assert (
        "| elsewhere | external, all images, not trained on | 1 |"
        in (folder / "card.md").read_text()
    )
    assert (folder / "metrics_elsewhere.json").is_file()


def test_a_replacing_release_takes_nothing_over_from_the_model_before(
    order: ReleaseOrder, released: Path
) -> None:
    """A variant of another model.onnx makes the service refuse the folder on processors for it."""
    shutil.copytree(released.parents[1], order.out)
    folder = order.out / order.name / order.version
    stale = ["metrics_elsewhere.json", "model.fp16.onnx", "model.int8.onnx"]
    for name in stale:
        (folder / name).write_bytes(b"of the model before")
    (folder / "notes.txt").write_text("the user's own", encoding="utf-8")
    release(replace(order, replace=True), Console(quiet=True))
    left = {path.name for path in folder.iterdir()}
    assert not left & set(stale)
    assert "notes.txt" in left


def test_images_trained_on_are_refused_under_another_name_too(
    order: ReleaseOrder, test_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "nucls").symlink_to(test_data, target_is_directory=True)
    elsewhere = tmp_path / "elsewhere"
    for kind in ("images", "labels"):
        (elsewhere / kind).mkdir(parents=True)
        content = (test_data / kind / "nucls_test_2.png").read_bytes()
        (elsewhere / kind / "a_1.png").write_bytes(content)
    with pytest.raises(ExportRefusedError, match=r"a_1.png.*is nucls_test_2.png, .*trained on"):
        release(
            replace(order, external_dirs=(elsewhere,), data_root=tmp_path / "root"),
            Console(quiet=True),
        )
    assert not order.out.exists()


def test_training_images_are_found_where_they_lay_in_training(
    order: ReleaseOrder, tiny_run: TrainedRun, test_data: Path, tmp_path: Path
) -> None:
    """The recipe's path starts elsewhere than beside the validation folder."""
    run_dir, root = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(tiny_run.folder, run_dir)
    root.mkdir()
    (root / "nucls").symlink_to(test_data, target_is_directory=True)
    sessions = [{"data_root": str(root)}]
    (run_dir / "environment.json").write_text(json.dumps(sessions), encoding="utf-8")
    folder = release(replace(order, run_dir=run_dir), Console(quiet=True))
    contract = ModelSession.load(folder / "model.onnx", provider="cpu").contract
    assert contract.quality_reference


def test_the_card_tells_the_scale_and_tissue_of_its_own_model(
    order: ReleaseOrder, tiny_run: TrainedRun, tmp_path: Path
) -> None:
    """Not those of the embedded model: another laboratory trains on kidney at 20x."""
    run_dir = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run_dir)
    config = json.loads((run_dir / "config.json").read_text())
    config["native_mpp"] = 0.5
    (run_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    folder = release(replace(order, run_dir=run_dir), Console(quiet=True))
    card = " ".join((folder / "card.md").read_text().split())
    assert "0.5 um/px (20x)" in card
    assert "40x" not in card
    assert "breast" not in card


def test_external_folders_of_one_name_are_refused(order: ReleaseOrder, test_data: Path) -> None:
    same = (test_data, test_data / "." / "images" / "..")
    with pytest.raises(ExportRefusedError, match="two external folders are named data"):
        release(replace(order, validation_dir=test_data, external_dirs=same), Console(quiet=True))


def save_broken(run: TrainedRun, folder: Path) -> TrainedRun:
    """The tiny run with a head that says nearly the same everywhere."""
    model = keras.saving.load_model(run.model_path, compile=False)
    head = model.get_layer("maps")
    kernel, offset = head.get_weights()
    head.set_weights([kernel * 0, np.full_like(offset, -9.0)])
    folder.mkdir()
    for name in ("config.json", "data.json"):
        (folder / name).write_bytes((run.folder / name).read_bytes())
    model.save(folder / "model.keras")
    return replace(run, folder=folder)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_blank_model_is_refused_and_leaves_nothing(
    order: ReleaseOrder, tiny_run: TrainedRun, tmp_path: Path
) -> None:
    broken = save_broken(tiny_run, tmp_path / "broken")
    with pytest.raises(ExportRefusedError, match="the model is constant"):
        release(replace(order, run_dir=broken.folder), Console(quiet=True))
    assert not order.out.exists()


def test_a_failed_parity_leaves_what_was_there_before(
    order: ReleaseOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (order.out / "other" / "1.0.0").mkdir(parents=True)

    def shifted(model: keras.Model) -> object:
        image = keras.Input((None, None, 3))
        x = keras.layers.ZeroPadding2D(((2, 0), (0, 0)))(image)
        x = keras.layers.Cropping2D(((0, 2), (0, 0)))(x)
        return convert(keras.Model(image, model(x)))

    convert = convert_module.convert
    monkeypatch.setattr(convert_module, "convert", shifted)
    with pytest.raises(ExportRefusedError, match="differs from Keras by"):
        release(order, Console(quiet=True))
    assert [path.name for path in order.out.iterdir()] == ["other"]


def test_images_that_were_trained_on_are_refused(order: ReleaseOrder) -> None:
    with pytest.raises(ExportRefusedError, match=r"3 of 5 images were trained on.*nucls_test_1"):
        release(replace(order, groups=None), Console(quiet=True))
    assert not order.out.exists()


def test_a_held_out_image_passes_the_same_check(tiny_run: TrainedRun, test_data: Path) -> None:
    check_held_out(tiny_run, choose_samples(test_data, "07,08"))


def test_a_version_is_not_overwritten_unless_told(order: ReleaseOrder, released: Path) -> None:
    before = (released / "model.onnx").read_bytes()
    again = replace(order, out=released.parents[1])
    with pytest.raises(ExportRefusedError, match="holds a model already"):
        release(again, Console(quiet=True))
    assert (released / "model.onnx").read_bytes() == before


def test_patients_are_told_by_the_pattern_of_the_recipe(
    order: ReleaseOrder, tiny_run: TrainedRun, test_data: Path, tmp_path: Path
) -> None:
    """Names that the usual pattern takes for patients of their own, as `caseB-roi1-x100b`."""
    run_dir = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run_dir)
    config = json.loads((run_dir / "config.json").read_text())
    config["data"][0]["group_pattern"] = "^(case[A-Z])"
    (run_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    folder = tmp_path / "nucls"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for number, stem in enumerate(("tnbc_p07_1", "tnbc_p08_2")):
            content = (test_data / kind / f"{stem}.png").read_bytes()
            (folder / kind / f"caseB-roi{number}-x{100 * number}b.png").write_bytes(content)
    orders = replace(order, run_dir=run_dir, validation_dir=folder, groups="caseB")
    metrics = json.loads((release(orders, Console(quiet=True)) / "metrics.json").read_text())
    assert list(metrics["groups"]) == ["caseB"]

    model = order.out / order.name / order.version / "model.onnx"
    arguments = ["evaluate", str(model), str(folder), "--groups", "caseB"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1, refused.output
    told = CliRunner().invoke(app, [*arguments, "--group-pattern", "^(case[A-Z])"])
    assert told.exit_code == 0, told.output


def test_a_bad_version_and_a_wrong_patient_are_refused_before_the_work(
    order: ReleaseOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(convert_module, "convert")
    with pytest.raises(ExportRefusedError, match="version"):
        release(replace(order, version="first"), Console(quiet=True))
    with pytest.raises(DatasetError, match="no group matches"):
        release(replace(order, groups="99"), Console(quiet=True))
    assert not order.out.exists()


def test_the_command_refuses_in_one_message(
    order: ReleaseOrder, repository: Path, tmp_path: Path
) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "export", "model", str(order.run_dir)),
            *("--validation", str(order.validation_dir), "--name", "tiny", "--version", "1.0.0"),
            *("--out", str(tmp_path / "models")),
        ],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    # No traceback, and nothing of what TensorFlow says while it loads.
    assert " ".join(result.stderr.split()).startswith("refused: 3 of 5 images were trained on")
    assert not (tmp_path / "models").exists()
