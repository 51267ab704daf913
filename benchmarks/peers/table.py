"""The servers of the side-by-side, each in an environment of its own and at its documented best.

"Best" is tried, not argued: a server that can have several workers runs once with one worker that
has all threads and once with as many one-thread workers as there are processors.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

BOUNDARY = "karyon-peers"
# The same packages below every peer, in the newest versions that its own pins allow.
WORK = ("numpy==2.4.6", "opencv-python-headless==5.0.0.93", "onnxruntime==1.31.1")
WORK_WITHOUT_RUNTIME = WORK[:2]

Body = tuple[str, bytes]


def raw(image: bytes) -> Body:
    """The image as it is."""
    return "image/jpeg", image


def raw_tensor(image: bytes) -> Body:
    """The image as the only element of the only tensor, which Triton takes without a JSON head."""
    return "application/octet-stream", image


def form(image: bytes) -> Body:
    """The image as the form field `image`."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="tile.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode("ascii") + image + f"\r\n--{BOUNDARY}--\r\n".encode("ascii")
    return f"multipart/form-data; boundary={BOUNDARY}", body


def protocol_v1(image: bytes) -> Body:
    """TensorFlow Serving's protocol, which KServe calls V1."""
    document = {"instances": [{"b64": base64.b64encode(image).decode("ascii")}]}
    return "application/json", json.dumps(document).encode("ascii")


def protocol_v2(image: bytes) -> Body:
    """The Open Inference Protocol in JSON."""
    tensor = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode("ascii")],
    }
    return "application/json", json.dumps({"inputs": [tensor]}).encode("ascii")


@dataclass(frozen=True, slots=True)
class Peer:
    """One server.

    Attributes:
        name: In the table.
        environment: Folder of its environment.
        requirements: What is installed there.
        command: Arguments for that environment's Python; `{port}` and `{workers}` are filled in.
        path: Where images are posted.
        encode: How an image is sent.
        several_workers: Whether it can run several workers.
        headers: More lines of the request's head.
        system_python: Whether it needs the Python whose library the system's linker finds.
        keras: Whether it runs the Keras model and not the ONNX file.
    """

    name: str
    environment: str
    requirements: tuple[str, ...]
    command: tuple[str, ...]
    path: str
    encode: Callable[[bytes], Body]
    several_workers: bool = True
    headers: tuple[str, ...] = ()
    system_python: bool = False
    keras: bool = False


_UVICORN = ("--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning")

KERAS_PEER = Peer(
    "FastAPI + Keras predict",
    "keras",
    (
        *WORK_WITHOUT_RUNTIME,
        "tensorflow-cpu==2.21.0",
        "fastapi==0.165.0",
        "uvicorn[standard]==0.54.0",
        "python-multipart>=0.0.30",
    ),
    ("-m", "uvicorn", "fastapi_keras:app", *_UVICORN),
    "/count",
    form,
    several_workers=False,
    keras=True,
)

PEERS: tuple[Peer, ...] = (
    Peer(
        "FastAPI + onnxruntime",
        "fastapi",
        (*WORK, "fastapi==0.165.0", "uvicorn[standard]==0.54.0", "python-multipart>=0.0.30"),
        ("-m", "uvicorn", "fastapi_onnxruntime:app", *_UVICORN, "--workers", "{workers}"),
        "/count",
        form,
    ),
    Peer(
        "LitServe",
        "litserve",
        (*WORK, "litserve==0.2.19", "python-multipart>=0.0.30"),
        ("litserve_onnxruntime.py",),
        "/predict",
        form,
    ),
    Peer(
        "BentoML",
        "bentoml",
        (*WORK, "bentoml==1.4.39"),
        (
            *("-m", "bentoml", "serve", "bentoml_onnxruntime:Count"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        "/count",
        form,
    ),
    Peer("Ray Serve", "ray", (*WORK, "ray[serve]==2.60.0"), ("ray_onnxruntime.py",), "/count", raw),
    Peer(
        "MLServer",
        "mlserver",
        # Its workers ask for an event loop in a way that later versions of uvloop refuse.
        (*WORK, "mlserver==1.7.1", "uvloop==0.21.0"),
        ("mlserver_onnxruntime.py",),
        "/v2/models/count/infer",
        protocol_v2,
    ),
    Peer(
        "KServe",
        "kserve",
        (*WORK, "kserve==0.21.0"),
        ("kserve_onnxruntime.py",),
        "/v1/models/count:predict",
        protocol_v1,
    ),
    Peer(
        "Triton",
        "triton",
        # PyTriton wants NumPy before 2, and OpenCV 5 wants NumPy 2.
        (
            *("numpy==1.26.4", "opencv-python-headless==4.11.0.86", "onnxruntime==1.31.1"),
            "nvidia-pytriton==0.7.0",
        ),
        ("triton_onnxruntime.py",),
        "/v2/models/count/infer",
        raw_tensor,
        headers=("Inference-Header-Content-Length: 0",),
        system_python=True,
    ),
    KERAS_PEER,
)
