"""LitServe: one API, PEER_WORKERS worker processes, each with its own session."""

import os
from typing import Any

import litserve
import work
from fastapi import Request


class Count(litserve.LitAPI):
    """Counts nuclei."""

    def setup(self, device: str) -> None:
        """Open the session in the worker."""
        del device
        self.session = work.open_session()

    def decode_request(self, request: Request) -> Any:
        """Read the form field: LitServe hands over the form of such a request."""
        return request["image"].file.read()

    def predict(self, data: bytes) -> dict[str, int]:
        """Count."""
        return work.answer(self.session, data)

    def encode_response(self, output: dict[str, int]) -> dict[str, int]:
        """Answer as JSON."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Count(),
        accelerator="cpu",
        devices=1,
        workers_per_device=int(os.environ["PEER_WORKERS"]),
        timeout=120,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        generate_client_file=False,
        log_level="warning",
    )
