"""MLServer: a custom runtime over the Open Inference Protocol, the image as base64 BYTES."""

import asyncio
import json
import os

import work
from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Count(MLModel):
    """Counts nuclei."""

    async def load(self) -> bool:
        """Open the session in the worker."""
        self.session = work.open_session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Count, off the worker's event loop."""
        (data,) = Base64Codec.decode_input(payload.inputs[0])
        found = await asyncio.to_thread(work.answer, self.session, data)
        output = StringCodec.encode_output("count", [json.dumps(found)])
        return InferenceResponse(model_name=self.name, outputs=[output])


def write_settings(folder: str) -> None:
    """Write what `mlserver start` reads."""
    workers = int(os.environ["PEER_WORKERS"])
    server = {
        "host": "127.0.0.1",
        "http_port": int(os.environ["PEER_PORT"]),
        "grpc_port": int(os.environ["PEER_PORT"]) + 1,
        "metrics_port": int(os.environ["PEER_PORT"]) + 2,
        # 0 runs the model in the server's own process, and saves the way to a single worker.
        "parallel_workers": workers if workers > 1 else 0,
        "debug": False,
        "metrics_dir": folder,
    }
    model = {"name": "count", "implementation": "mlserver_onnxruntime.Count"}
    for name, settings in (("settings.json", server), ("model-settings.json", model)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:  # noqa: PTH118, PTH123  the peer's own environment
            json.dump(settings, file)


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as settings_folder:
        write_settings(settings_folder)
        sys.argv = ["mlserver", "start", settings_folder]
        from mlserver.cli import main

        main()
