"""KServe: a custom model server over the first inference protocol, the image in base64."""

import asyncio
import base64
import os
from typing import Any

import kserve
import work


class Count(kserve.Model):
    """Counts nuclei."""

    def __init__(self) -> None:
        super().__init__("count")
        # A worker process gets the model pickled, and a session cannot be.
        self.session: Any = None
        self.ready = True

    async def predict(
        self, payload: dict[str, Any], headers: Any = None, response_headers: Any = None
    ) -> dict[str, Any]:
        """Count, off the event loop."""
        del headers, response_headers
        if self.session is None:
            self.session = work.open_session()
        data = base64.b64decode(payload["instances"][0]["b64"])
        return {"predictions": [await asyncio.to_thread(work.answer, self.session, data)]}


if __name__ == "__main__":
    kserve.ModelServer(
        http_port=int(os.environ["PEER_PORT"]),
        workers=int(os.environ["PEER_WORKERS"]),
        enable_grpc=False,
        access_log_format=None,
    ).start([Count()])
