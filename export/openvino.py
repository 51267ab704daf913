"""Run a model file on onnxruntime's OpenVINO provider, in a stated precision."""

import json
from pathlib import Path
from typing import Final, Literal

import onnxruntime

from export.onnx_file import digest
from service.errors import ProviderError
from service.inference.contract import parse_contract
from service.inference.session import ModelSession

OPENVINO_PROVIDER: Final = "OpenVINOExecutionProvider"


def has_openvino() -> bool:
    """Whether this environment's onnxruntime brings OpenVINO along."""
    return OPENVINO_PROVIDER in onnxruntime.get_available_providers()


def open_openvino(
    path: Path, precision: Literal["f32", "bf16"], *, threads: int = 0, streams: int = 0
) -> ModelSession:
    """Load a model file on OpenVINO's CPU plugin.

    Args:
        path: The file.
        precision: What OpenVINO may compute in what is not quantised. `f32` must be asked for:
            OpenVINO takes bf16 by itself where the processor is fast at it.
        threads: Threads; 0 leaves them to OpenVINO.
        streams: Runs side by side; 0 leaves them to OpenVINO.

    Raises:
        ProviderError: The provider is missing, or onnxruntime ran the model elsewhere.
    """
    config: dict[str, str] = {"INFERENCE_PRECISION_HINT": precision}
    if threads:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    if streams:
        config["NUM_STREAMS"] = str(streams)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        path,
        options,
        providers=[
            (OPENVINO_PROVIDER, {"device_type": "CPU", "load_config": json.dumps({"CPU": config})})
        ],
    )
    if session.get_providers()[0] != OPENVINO_PROVIDER:
        raise ProviderError("OpenVINO was asked for and onnxruntime ran the model elsewhere")
    contract = parse_contract(session.get_modelmeta().custom_metadata_map)
    return ModelSession(path, digest(path), contract, session)
