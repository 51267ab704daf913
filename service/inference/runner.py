"""How tiles get to a model: straight, or through a queue that many requests share."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.inference.ticket import Ticket

Tiles = NDArray[np.uint8]
"""Tiles of one request, shape (N, H, W, 3), uint8; or their maps, (N, H, W, C)."""


class TileSession(Protocol):
    """A loaded model; `service.inference.session.ModelSession` is one."""

    def run(self, tiles: Tiles) -> Tiles:
        """Return the maps of tiles, in their order."""


class TileRunner(Protocol):
    """Who runs the tiles of an image."""

    def stream(self, chunks: Iterable[Tiles], ticket: Ticket) -> Iterator[Tiles]:
        """Yield the maps of each chunk, in order.

        Args:
            chunks: Taken one by one as there is room, so that memory does not grow with the image.
            ticket: Checked before each chunk.

        Raises:
            DeadlineExceededError: The ticket's deadline has passed.
            ClientGoneError: The ticket was given up.
        """


class DirectRunner:
    """Runs each chunk in the calling thread: the command line's and the exporter's way."""

    def __init__(self, session: TileSession) -> None:
        self._session = session

    def stream(self, chunks: Iterable[Tiles], ticket: Ticket) -> Iterator[Tiles]:
        """Yield the maps of each chunk; see `TileRunner`."""
        for tiles in chunks:
            ticket.check()
            yield self._session.run(tiles)
