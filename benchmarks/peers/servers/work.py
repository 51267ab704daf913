"""What every peer does with an image, so that only the server around it differs.

It needs NumPy, OpenCV and onnxruntime alone and imports nothing of Karyon: each peer lives in its
own environment. It is less than Karyon does: no tiling, no watershed, no measurements, no quality
flags, no hash. The provider is onnxruntime's default one for processors, at fp32.
"""

import os
from typing import Any

import cv2
import numpy as np


def open_session() -> Any:
    """Open PEER_MODEL with PEER_THREADS threads."""
    import onnxruntime  # noqa: PLC0415  the Keras peer has none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
    return onnxruntime.InferenceSession(
        os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
    )


def decode(data: bytes) -> np.ndarray:
    """Decode a file to a batch of one, (1, H, W, 3) uint8 RGB."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)[np.newaxis]


def count(maps: np.ndarray) -> dict[str, int]:
    """Count the connected regions above one half in maps (1, H, W, C) uint8."""
    nuclei = np.ascontiguousarray(maps[0, :, :, 0] > 127).astype(np.uint8)
    return {"count": int(cv2.connectedComponents(nuclei)[0]) - 1}


def answer(session: Any, data: bytes) -> dict[str, int]:
    """Decode, run, count."""
    (maps,) = session.run(["maps"], {"image": decode(data)})
    return count(maps)
