"""How fast the queue really drains, from what was finished while there was work."""

# Weight of what is already known at each new measurement: about the last ten requests count.
_KEPT = 0.9


class DrainRate:
    """Measures the seconds that a tile takes the whole service, whatever it runs at once.

    Not the time of one request: with several workers, requests overlap. What counts is the time in
    which anything was at work, divided by the tiles that came out of it.
    """

    def __init__(self, expected_tile_s: float) -> None:
        """Start from a guess.

        Args:
            expected_tile_s: Seconds a tile, as measured on the canary image, say.
        """
        self._busy_s = expected_tile_s
        self._tiles = 1.0
        self._requests = 1.0
        self._since_s: float | None = None

    def began(self, now_s: float) -> None:
        """Some request is at work from `now_s` on; others may be already."""
        if self._since_s is None:
            self._since_s = now_s

    def ended(self, tiles: int, now_s: float, *, busy: bool) -> None:
        """One request is done.

        Args:
            tiles: What it had.
            now_s: When it ended, on the clock of `began`.
            busy: Whether others are still at work.
        """
        passed_s = 0.0 if self._since_s is None else now_s - self._since_s
        self._busy_s = _KEPT * self._busy_s + passed_s
        self._tiles = _KEPT * self._tiles + tiles
        self._requests = _KEPT * self._requests + 1.0
        self._since_s = now_s if busy else None

    def seconds_a_request(self) -> float:
        """Return the seconds that a request of the usual size takes the whole service."""
        return self._busy_s / self._requests

    def seconds_for(self, tiles: int) -> float:
        """Return the seconds until so many tiles are done."""
        return tiles * self._busy_s / self._tiles
