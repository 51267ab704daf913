"""The results page: rebuilt from run folders and released models, with every table."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.contract import TrainedRun, build_contract
from export.cost import count_multiplications, count_parameters, machine
from export.errors import ExportRefusedError
from export.evaluate import choose_samples, evaluate, write_metrics
from export.onnx_file import write
from export.records import read_ablations, read_models, read_runs
from export.results import MOST_PICTURE_BYTES, ResultsOrder, write_results
from service.inference.session import ModelSession
from service.segmenter import Segmenter

HISTORY = "epoch,val_dice,val_loss\n1,0.70,0.9\n2,0.81,0.7\n3,0.80,0.6\n"
ABLATIONS = """
[[ablation]]
what = "half the steps"
against = "tiny"
run = "shorter"
remark = "costs little"
"""
CURVES = {
    "roc": {"false_positive_rate": [0, 0.1, 1], "true_positive_rate": [0, 0.9, 1]},
    "precision_recall": {"recall": [0, 0.9, 1], "precision": [1, 0.8, 0.2]},
    "reliability": {"stated": [0.1, 0.9], "observed": [0.05, 0.95], "pixels": [9, 9]},
}


@pytest.fixture(scope="module")
def workplace(
    tiny_run: TrainedRun,
    tiny_proto: onnx.ModelProto,
    test_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Two runs and two versions of a model, the newer one measured."""
    root = tmp_path_factory.mktemp("workplace")
    for name, epochs in (("tiny", HISTORY), ("shorter", HISTORY.replace("0.81", "0.79"))):
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        config = (tiny_run.folder / "config.json").read_text()
        # The model was made by the run `tiny` alone.
        (folder / "config.json").write_text(config if name == "tiny" else config + "\n")
        (folder / "history.csv").write_text(epochs)
    (root / "runs" / "unfinished").mkdir()
    (root / "runs" / "unfinished" / "config.json").write_text("{}")
    (root / "ablations.toml").write_text(ABLATIONS)
    for version in ("0.9.0", "0.10.0"):
        folder = root / "models" / "tiny" / version
        folder.mkdir(parents=True)
        contract = build_contract(tiny_run, name="tiny", version=version)
        write(tiny_proto, contract, folder / "model.onnx")
        samples = choose_samples(test_data, "07,08")
        segmenter = Segmenter(ModelSession.load(folder / "model.onnx", provider="cpu"))
        evaluation = evaluate(segmenter, samples, dataset="tiles", split="validation")
        for name in ("metrics.json", "metrics_other.json"):
            write_metrics(evaluation, folder / name)
        document: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        document["curves"] = CURVES
        document["pooled"] |= {"auc": 0.95, "average_precision": 0.9, "ece": 0.02}
        (folder / "metrics.json").write_text(json.dumps(document))
    fold = root / "runs" / "folds" / "tiny_unet" / "07-08"
    fold.mkdir(parents=True)
    newest = root / "models" / "tiny" / "0.10.0"
    (fold / "metrics.json").write_text((newest / "metrics.json").read_text())
    # Models of folds stand in their own table.
    shutil.copytree(newest, root / "models" / "fold0-tiny" / "0.0.1")
    return root


def order(workplace: Path, out: Path, **changes: Any) -> ResultsOrder:
    values: dict[str, Any] = {
        "runs_dir": workplace / "runs",
        "models_dirs": (workplace / "models",),
        "out": out,
        "data": None,
        "ablations": workplace / "ablations.toml",
        "repeats": 1,
        "command": "python -m export report runs models",
    }
    return ResultsOrder(**(values | changes))


def test_the_page_holds_every_table_and_every_picture_it_names(
    workplace: Path, test_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "ablations.md").write_text("what benchmarks.ablations wrote")
    written = write_results(order(workplace, tmp_path, data=test_data))
    page = (tmp_path / "README.md").read_text()
    names = {path.name for path in written} - {"README.md"}
    assert names == {
        "training.png",
        "roc_precision_recall.png",
        "reliability.png",
        "sparse.jpg",
        "dense.jpg",
    }
    for name in names:
        assert f"]({name})" in page
        assert 0 < (tmp_path / name).stat().st_size <= MOST_PICTURE_BYTES
    assert "`tiny` 0.10.0" in page
    assert "0.9.0" not in page
    assert "0.78-0.85" in page
    assert "blank mask" in page
    assert "| other | 2 |" in page
    assert "| tnbc_p07 |" in page
    assert "| half the steps | `shorter` | 0.8000 | `tiny` | 0.8100 | -0.0100 |" in page
    assert "[what each is worth](ablations.md)" in page
    assert "| 07-08 | 2 |" in page
    assert "fold0-tiny" not in page
    assert machine() in page
    assert "python -m export report runs models" in page
    assert str(workplace) not in page


def test_what_is_not_there_is_left_out(workplace: Path, tmp_path: Path) -> None:
    written = write_results(order(workplace, tmp_path, ablations=None, repeats=0))
    page = (tmp_path / "README.md").read_text()
    assert "sparse.jpg" not in {path.name for path in written}
    assert "What was tried" not in page
    assert "ablations.md" not in page
    assert "CPU ms" not in page


def test_the_budget_of_a_run_names_every_stage(workplace: Path, tmp_path: Path) -> None:
    config = json.loads((workplace / "runs" / "tiny" / "config.json").read_text())
    config |= {"epochs": 3, "steps_per_epoch": 50, "batch_size": 4, "crop_px": 64}
    stages = {
        "first": {},
        "second": {"initial_model": "runs/first/model.keras", "epochs": 2},
        "third": {"initial_model": "elsewhere/lost/model.keras"},
    }
    for name, changes in stages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config | changes))
        (tmp_path / name / "history.csv").write_text(HISTORY)
    budgets = {run.folder.name: run.budget for run in read_runs(tmp_path)}
    assert budgets == {
        "first": ("150 x 4 x 64\u00b2",),
        "second": ("150 x 4 x 64\u00b2", "100 x 4 x 64\u00b2"),
        "third": ("lost", "150 x 4 x 64\u00b2"),
    }


def test_models_meet_their_runs_by_the_configuration(workplace: Path) -> None:
    runs = read_runs(workplace / "runs")
    assert [run.folder.name for run in runs] == ["shorter", "tiny"]
    (record,) = read_models([workplace / "models"], runs, repeats=0)
    assert record.run is runs[1]
    assert record.run.best("val_dice") == 0.81
    assert record.run.best("no such column") is None
    assert record.cost.cpu_ms is None
    assert list(record.external) == ["other"]


def test_an_ablation_without_its_run_is_refused(workplace: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "ablations.toml"
    wrong.write_text(ABLATIONS.replace('"shorter"', '"gone"'))
    with pytest.raises(ExportRefusedError, match="the run gone, which is not there"):
        write_results(order(workplace, tmp_path / "out", ablations=wrong))
    wrong.write_text('[[ablation]]\nwhat = "no run"\n')
    with pytest.raises(ExportRefusedError, match="no list of ablations"):
        read_ablations(wrong)


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefusedError, match="no model with figures"):
        read_models([tmp_path], [], repeats=0)


def test_operations_are_counted_by_hand() -> None:
    """A 3x3 convolution of 3 to 4 channels at stride 2, then a product with a 4 x 5 matrix."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    maps = helper.make_tensor_value_info("maps", TensorProto.FLOAT, None)
    kernel = numpy_helper.from_array(np.ones((4, 3, 3, 3), dtype=np.float32), "kernel")
    matrix = numpy_helper.from_array(np.ones((4, 5), dtype=np.float16), "matrix")
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "kernel"], ["small"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["small"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["matrix"], ["full"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["last", "full"], ["maps"]),
    ]
    graph = helper.make_graph(nodes, "counted", [image], [maps], [kernel, matrix])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert count_parameters(proto) == 108 + 20
    assert count_multiplications(proto, 8) == 16 * 4 * 27 + 16 * 5 * 4
