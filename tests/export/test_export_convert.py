from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export import convert as convert_module
from export import onnx_file as onnx_file_module
from export.contract import TrainedRun, build_contract
from export.convert import OPSET, convert, load_model
from export.errors import ExportRefusedError
from export.onnx_file import write
from service.inference.contract import CONTRACT_KEY, parse_contract


def run(proto: onnx.ModelProto, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (maps,) = session.run(["maps"], {"image": tiles})
    return np.asarray(maps)


def test_the_ends_of_the_graph_are_those_of_the_contract(tiny_proto: onnx.ModelProto) -> None:
    (image,) = tiny_proto.graph.input
    (maps,) = tiny_proto.graph.output
    assert (image.name, maps.name) == ("image", "maps")
    for tensor, channels in ((image, 3), (maps, 2)):
        assert tensor.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        shape = tensor.type.tensor_type.shape.dim
        assert [dimension.dim_param for dimension in shape[:3]] == ["N", "H", "W"]
        assert shape[3].dim_value == channels
    assert [(entry.domain, entry.version) for entry in tiny_proto.opset_import][:1] == [("", OPSET)]


def test_the_graph_gives_what_keras_gives_rounded(
    tiny_model: keras.Model, tiny_proto: onnx.ModelProto
) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 96, 160, 3)).astype(np.uint8)
    maps = keras.ops.convert_to_numpy(tiny_model(tiles.astype(np.float32), training=False))
    expected = np.rint(maps * 255)
    found = run(tiny_proto, tiles)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert found.std() > 20, "the comparison needs a map that varies"


def test_each_upsampling_is_one_resize_and_nothing_is_tiled(tiny_proto: onnx.ModelProto) -> None:
    kinds = Counter(node.op_type for node in tiny_proto.graph.node)
    assert kinds["Resize"] == 3
    assert kinds["Tile"] == 0
    # One from NHWC to NCHW and one back; an upsampling left to Keras adds two each.
    assert kinds["Transpose"] <= 4


def test_keras_is_as_before_after_an_export(tiny_model: keras.Model) -> None:
    normalization = next(
        layer for layer in tiny_model.layers if isinstance(layer, keras.layers.Normalization)
    )
    call, mean = keras.layers.UpSampling2D.call, normalization.mean
    convert(tiny_model)
    assert keras.layers.UpSampling2D.call is call
    assert normalization.mean is mean


def test_keras_is_as_before_after_a_failed_export(
    tiny_model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = keras.layers.UpSampling2D.call

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no converter")

    monkeypatch.setattr(convert_module.tf2onnx.convert, "from_function", fail)
    with pytest.raises(RuntimeError, match="no converter"):
        convert(tiny_model)
    assert keras.layers.UpSampling2D.call is call


def test_without_its_remedy_normalization_escapes_and_is_noticed(
    tiny_model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "_traceable_normalization", lambda _: nullcontext())
    with pytest.raises(ExportRefusedError, match="keeps constants outside of the traced graph"):
        convert(tiny_model)


def test_a_model_in_another_precision_is_refused() -> None:
    image = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(1, 1, activation="sigmoid", dtype="mixed_bfloat16", name="low")
    with pytest.raises(ExportRefusedError, match=r"layer low .* computes in bfloat16"):
        convert(keras.Model(image, maps(image)))


def test_a_nested_layer_in_another_precision_is_refused() -> None:
    inner_image = keras.Input((None, None, 3))
    inner = keras.Model(
        inner_image, keras.layers.Conv2D(3, 1, dtype="mixed_float16", name="deep")(inner_image)
    )
    image = keras.Input((None, None, 3))
    with pytest.raises(ExportRefusedError, match=r"layer deep .* computes in float16"):
        convert(keras.Model(image, keras.layers.Conv2D(1, 1)(inner(image))))


def test_a_model_of_one_size_only_is_refused() -> None:
    image = keras.Input((64, 64, 3))
    with pytest.raises(ExportRefusedError, match="N, H and W must be dynamic"):
        convert(keras.Model(image, keras.layers.Conv2D(1, 1)(image)))


def test_a_model_of_gray_images_is_refused() -> None:
    image = keras.Input((None, None, 1))
    with pytest.raises(ExportRefusedError, match="takes 1 channels instead of RGB"):
        convert(keras.Model(image, keras.layers.Conv2D(1, 1)(image)))


def test_a_bicubic_upsampling_is_refused() -> None:
    image = keras.Input((None, None, 3))
    x = keras.layers.AveragePooling2D(2)(image)
    x = keras.layers.UpSampling2D(2, interpolation="bicubic", name="up")(x)
    with pytest.raises(ExportRefusedError, match="layer up upsamples by bicubic"):
        convert(keras.Model(image, keras.layers.Conv2D(1, 1)(x)))


def test_a_missing_and_a_broken_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefusedError, match="no trained model"):
        load_model(tmp_path / "model.keras")
    (tmp_path / "model.keras").write_bytes(b"not a zip file")
    with pytest.raises(ExportRefusedError, match="Keras cannot load"):
        load_model(tmp_path / "model.keras")


def test_the_contract_travels_in_the_file(
    tiny_proto: onnx.ModelProto, tiny_run: TrainedRun, tmp_path: Path
) -> None:
    contract = build_contract(tiny_run, name="tiny", version="0.1.0")
    path = tmp_path / "model.onnx"
    write(tiny_proto, contract, path)
    write(tiny_proto, contract, path)
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert list(metadata) == [CONTRACT_KEY]
    assert parse_contract(metadata) == contract
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tiny_proto: onnx.ModelProto,
    tiny_run: TrainedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old model")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(onnx_file_module.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tiny_proto, build_contract(tiny_run, name="tiny", version="0.1.0"), path)
    assert path.read_bytes() == b"the old model"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
