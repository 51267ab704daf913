"""Triton through PyTriton: PEER_WORKERS instances of a Python callable, each with its own session.

The package carries Triton's server with its Python backend alone, not the one for ONNX files. No
batching: at fp32 on processors a batch takes as long as its images one by one, and each image has
to be decoded by itself in any case.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import work
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def counter() -> Callable[[list[Any]], list[dict[str, Any]]]:
    """Open a session and return the callable of one instance."""
    session = work.open_session()

    def count(requests: list[Any]) -> list[dict[str, Any]]:
        """Count the nuclei of one image in each request."""
        found = [work.answer(session, request["image"][0]) for request in requests]
        return [{"found": np.array([json.dumps(one).encode("ascii")])} for one in found]

    return count


def main() -> None:
    """Serve until the end."""
    port = int(os.environ["PEER_PORT"])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="count",
            infer_func=[counter() for _ in range(int(os.environ["PEER_WORKERS"]))],
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="found", dtype=bytes, shape=(1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    main()
