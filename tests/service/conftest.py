"""A tiny real ONNX model and a private PostgreSQL for the tests of the service.

`tiny_model_factory` writes a model file, `tiny_model_path` and `tiny_one_channel_path` are two such
files, and `tiny_models_dir` is a model repository that holds both as `tiny` (nucleus and distance,
versions 1.0.0 and 1.1.0) and `tiny_onechannel` (nucleus alone). The graph satisfies contract
version 1 and turns dark purple into nucleus probability, so real H&E tiles and drawn discs give
sensible masks and counts without a trained weight. It loads in milliseconds.
"""

import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psycopg
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.inference.contract import ModelContract

TinyModelFactory = Callable[..., Path]
RunKaryon = Callable[..., subprocess.CompletedProcess[str]]

# The serving environment has none of these; in the tests' environment they are made unimportable.
FORBIDDEN = (
    "tensorflow", "keras", "tf2onnx", "scipy", "matplotlib", "jax", "torch",
    "imagecodecs", "skimage", "PIL", "httpx", "httpx2",
)  # fmt: skip
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError(name + " is not part of the serving environment")
sys.meta_path.insert(0, Blocker())
"""


def tiny_contract_document(**changes: Any) -> dict[str, Any]:
    """A valid contract as a JSON-able dict; keyword arguments replace top-level fields."""
    document: dict[str, Any] = {
        "contract_version": 1,
        "name": "tiny",
        "version": "1.0.0",
        "architecture": "threshold",
        "description": "Darkness as nucleus probability; for tests.",
        "created_utc": "2026-11-22T12:00:00Z",
        "input": {
            "name": "image",
            "dtype": "uint8",
            "layout": "NHWC",
            "colour": "RGB",
            "mpp": 0.25,
            "divisor": 32,
            "tile_px": 256,
            "halo_px": 32,
        },
        "output": {"name": "maps", "dtype": "uint8", "channels": ["nucleus", "distance"]},
        "separation": {
            "probability_threshold": 0.5,
            "seed_threshold": 0.5,
            "min_area_um2": 4.0,
            "min_mean_probability": 0.0,
        },
        "count_interval": None,
        "quality_reference": None,
        "training": {
            "data": [
                {
                    "name": "none",
                    "licence": "MIT",
                    "attribution": "none",
                    "source": "tests/service/conftest.py",
                    "use": "no training",
                }
            ],
            "config_sha256": "0" * 64,
            "source_revision": "unknown",
            "encoder_weights": "none",
        },
        "metrics": [],
        "verification": {"max_difference": 0, "tiles": 1, "against": "itself"},
        "weight_storage": "float32",
        "variant": None,
        "reduced_precisions": [],
    }
    document.update(changes)
    return document


def _constant(name: str, values: Any, dtype: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def build_tiny_graph(channels: int, *, output_type: int = TensorProto.UINT8) -> onnx.ModelProto:
    """Build the graph: `image` uint8 (N, H, W, 3) to `maps` uint8 (N, H, W, channels).

    brightness = 0.8 red + 0.1 green + 0.1 blue   (haematoxylin absorbs red, eosin does not)
    nucleus    = clip((200 - mean5x5(brightness)) / 76)
    distance   = mean7x7(nucleus)^2               (peaks inside, falls towards the edge)
    """
    pool = {"kernel_shape": None, "count_include_pad": 0, "strides": [1, 1]}
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["image_float", "colour_weights"], ["brightness"]),
        helper.make_node("Transpose", ["brightness"], ["brightness_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool",
            ["brightness_nchw"],
            ["smooth"],
            **{**pool, "kernel_shape": [5, 5], "pads": [2, 2, 2, 2]},
        ),
        helper.make_node("Sub", ["white", "smooth"], ["darkness"]),
        helper.make_node("Div", ["darkness", "contrast"], ["stretched"]),
        helper.make_node("Clip", ["stretched", "zero", "one"], ["nucleus"]),
    ]
    maps = "nucleus"
    if channels == 2:
        nodes += [
            helper.make_node(
                "AveragePool",
                ["nucleus"],
                ["interior"],
                **{**pool, "kernel_shape": [7, 7], "pads": [3, 3, 3, 3]},
            ),
            helper.make_node("Mul", ["interior", "interior"], ["distance"]),
            helper.make_node("Concat", ["nucleus", "distance"], ["stacked"], axis=1),
        ]
        maps = "stacked"
    nodes += [
        helper.make_node("Mul", [maps, "full_scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["maps_float"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["maps_float"], ["maps"], to=output_type),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("maps", output_type, ["N", "H", "W", channels])],
        [
            _constant("colour_weights", [[0.8], [0.1], [0.1]], np.float32),
            _constant("white", 200.0, np.float32),
            _constant("contrast", 76.0, np.float32),
            _constant("zero", 0.0, np.float32),
            _constant("one", 1.0, np.float32),
            _constant("full_scale", 255.0, np.float32),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    # The newest `onnx` stamps an IR version that the pinned onnxruntime may not read yet.
    model.ir_version = 9
    return model


def write_tiny_model(
    path: Path,
    *,
    document: dict[str, Any] | None = None,
    graph_channels: int | None = None,
    metadata: dict[str, str] | None = None,
    **contract_changes: Any,
) -> Path:
    """Write a tiny model file to `path` (folders are made) and return the path.

    Args:
        path: The file.
        document: A whole contract; default `tiny_contract_document(**contract_changes)`.
        graph_channels: Channels of the graph where they shall differ from the contract's.
        metadata: The file's whole metadata, instead of a valid contract.
        **contract_changes: Top-level fields of the contract to replace.
    """
    document = document or tiny_contract_document(**contract_changes)
    if metadata is None:
        metadata = ModelContract.model_validate(document).to_metadata()
    model = build_tiny_graph(graph_channels or len(document["output"]["channels"]))
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


ONE_CHANNEL_OUTPUT = {"name": "maps", "dtype": "uint8", "channels": ["nucleus"]}


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The service's own data of this test run, instead of a folder in the checkout."""
    folder = tmp_path_factory.mktemp("karyon-data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARYON_DATA_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def serving_environment(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> dict[str, str]:
    """Environment variables of a process in which the training packages cannot be imported."""
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER, "utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KARYON_", "COV_"))}
    path = os.pathsep.join([str(folder), str(repository)])
    return {**kept, "PYTHONPATH": path, "KARYON_DATA_DIR": str(folder / "karyon-data")}


@pytest.fixture(scope="session")
def karyon() -> RunKaryon:
    """`python -m service` run to its end: `karyon(environment, "openapi")`."""

    def run(
        environment: dict[str, str], *arguments: str, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def tiny_model_factory() -> TinyModelFactory:
    """`write_tiny_model`, as a fixture: `tiny_model_factory(path, version="2.0.0")`."""
    return write_tiny_model


@pytest.fixture(scope="session")
def contract_document() -> Callable[..., dict[str, Any]]:
    """`tiny_contract_document`, as a fixture: `contract_document(name="other")`."""
    return tiny_contract_document


@pytest.fixture(scope="session")
def tiny_model_path(tiny_models_dir: Path) -> Path:
    """A two-channel model file (`tiny` 1.1.0)."""
    return tiny_models_dir / "tiny" / "1.1.0" / "model.onnx"


@pytest.fixture(scope="session")
def tiny_one_channel_path(tiny_models_dir: Path) -> Path:
    """A one-channel model file (`tiny_onechannel` 1.0.0)."""
    return tiny_models_dir / "tiny_onechannel" / "1.0.0" / "model.onnx"


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository: `<name>/<version>/model.onnx`, three files, two names."""
    root = tmp_path_factory.mktemp("models")
    for version in ("1.0.0", "1.1.0"):
        write_tiny_model(root / "tiny" / version / "model.onnx", version=version)
    write_tiny_model(
        root / "tiny_onechannel" / "1.0.0" / "model.onnx",
        name="tiny_onechannel",
        output=ONE_CHANNEL_OUTPUT,
    )
    return root


def postgresql_programs() -> Path | None:
    """The folder of PostgreSQL's server programs: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[str]:
    """URL of a private server on a socket in a temporary folder, without a database's name."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server programs (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="karyon-postgresql-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        # The server refuses to run as root.
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("runs as root, and there is no user `postgres` to run the server as")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = ["setpriv", "--reuid=postgres", f"--regid={owner.pw_gid}", "--clear-groups"]

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    try:
        run("initdb", "-D", data, "-U", "karyon", "--auth=trust", "--encoding=UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://karyon@/{{name}}?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_postgresql_database(postgresql_cluster: str) -> Callable[[], str]:
    """Makes empty databases on the private server; returns the URL of each."""
    numbers = itertools.count(1)

    def make() -> str:
        name = f"karyon_{next(numbers)}"
        with psycopg.connect(
            postgresql_cluster.format(name="postgres"), autocommit=True
        ) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return postgresql_cluster.format(name=name)

    return make
