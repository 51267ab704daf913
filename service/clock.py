"""Time spent in the stages of a segmentation."""

import time


class Clock:
    """Adds up the time spent in each stage."""

    def __init__(self) -> None:
        stages = ("tiling", "inference", "separation", "measurement", "quality")
        self.laps_ms = dict.fromkeys(stages, 0.0)
        self._last_s = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap."""
        now_s = time.perf_counter()
        self.laps_ms[stage] += (now_s - self._last_s) * 1000
        self._last_s = now_s
