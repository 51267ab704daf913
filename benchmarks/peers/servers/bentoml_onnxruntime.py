"""BentoML: one service of PEER_WORKERS worker processes; a synchronous API runs in its threads."""

import os
from pathlib import Path

import bentoml
import work


@bentoml.service(
    workers=int(os.environ["PEER_WORKERS"]),
    traffic={"timeout": 120},
    threads=int(os.environ["PEER_THREADS"]),
    logging={"access": {"enabled": False}},
)
class Count:
    """Counts nuclei."""

    def __init__(self) -> None:
        self.session = work.open_session()

    @bentoml.api(route="/count")
    def count(self, image: Path) -> dict[str, int]:
        """Count the nuclei of an image, which BentoML hands over as a file."""
        return work.answer(self.session, image.read_bytes())
