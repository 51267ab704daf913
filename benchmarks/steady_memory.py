"""Whether memory stays where it is: many requests of mixed sizes, resident size by tenths.

    python -m benchmarks.steady_memory [--requests 10000] [--concurrency 4]

Most images are small, so that ten thousand take minutes; one in fifty is a whole tile and one in
five hundred a field of several. Sides are drawn anew for each request, so that every padded shape
occurs early and every allocation differs. Bar: resident memory after the last tenth within 3 % of
that after the first tenth. What stands beside it says what grew: `private` is the process's own.
At one moment more is in use than at another, and the C library keeps up to 16 MiB that are free in
each of two arenas: what a tenth ends with is the median of ten readings over its second half.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.http_overhead import running_service
from benchmarks.thrifty_client import ThriftyClient
from service.inference.repository import embedded_models_dir

FIELD = Path(__file__).resolve().parents[1] / "tests" / "load" / "images" / "field_2000.jpg"
BAR = 0.03
# Largest side in pixels of a class of images, and its share of the requests.
SIDES: Mapping[int, float] = {96: 0.6, 192: 0.378, 512: 0.02, 1200: 0.002}
_LEAST_SIDE_PX = 32
_SEED = 20
_STEPS = 10
_READINGS_A_STEP = 20


@dataclass(frozen=True)
class Steps:
    """What was read towards the end of each tenth of the requests.

    Attributes:
        resident_mb: Resident memory of the server.
        private_mb: What of it is its own alone.
        statuses: Answers by status.
        seconds: The whole run.
    """

    resident_mb: list[float]
    private_mb: list[float]
    statuses: Counter[int]
    seconds: float

    @property
    def growth(self) -> float:
        """From after the first tenth to after the last, as a share of the first."""
        return self.resident_mb[-1] / self.resident_mb[0] - 1.0


def draw_image(field: NDArray[np.uint8], chance: random.Random) -> bytes:
    """Cut an image of a random size from a field, as JPEG or PNG."""
    most = chance.choices(list(SIDES), list(SIDES.values()))[0]
    height, width = (chance.randint(max(_LEAST_SIDE_PX, most // 2), most) for _ in range(2))
    y, x = chance.randrange(field.shape[0] - height), chance.randrange(field.shape[1] - width)
    kind = ".png" if chance.random() < 0.25 else ".jpg"
    return cv2.imencode(kind, field[y : y + height, x : x + width])[1].tobytes()


async def send_all(server: psutil.Process, port: int, requests: int, concurrency: int) -> Steps:
    """Send the requests over some connections, and weigh the server after each tenth."""
    decoded = cv2.imread(str(FIELD))
    if decoded is None:
        raise RuntimeError(f"{FIELD} cannot be read")
    field = np.asarray(decoded, dtype=np.uint8)
    chance = random.Random(_SEED)
    client = ThriftyClient(port)
    statuses: Counter[int] = Counter()
    readings: list[tuple[float, float]] = []
    start_s = time.perf_counter()
    for number in range(1, _STEPS * _READINGS_A_STEP + 1):
        left = max(1, requests // (_STEPS * _READINGS_A_STEP))

        async def ask() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                headers = {"Content-Type": "application/octet-stream"}
                answer = await client.post("/segment", draw_image(field, chance), headers)
                statuses[answer.status] += 1

        await asyncio.gather(*(ask() for _ in range(concurrency)))
        memory = server.memory_full_info()
        readings.append((memory.rss / 1e6, memory.uss / 1e6))
        if number % _READINGS_A_STEP == 0:
            print(f"{readings[-1][0]:.0f} MB", end=" ", file=sys.stderr, flush=True)
    steps = np.array(readings).reshape(_STEPS, _READINGS_A_STEP, 2)
    medians = np.median(steps[:, _READINGS_A_STEP // 2 :], axis=1)
    client.close()
    seconds = time.perf_counter() - start_s
    return Steps(medians[:, 0].tolist(), medians[:, 1].tolist(), statuses, seconds)


def measure(
    models_dir: Path, requests: int, concurrency: int, settings: Mapping[str, str] | None = None
) -> Steps:
    """Start a service, send it the requests and return what it weighed."""
    with running_service(models_dir, 0, settings) as (server, port):
        return asyncio.run(send_all(server, port, requests, concurrency))


def main() -> int:
    """Measure, print, and return 0 when the bar is held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=embedded_models_dir())
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=4)
    arguments = parser.parse_args()
    steps = measure(arguments.models_dir, arguments.requests, arguments.concurrency)
    print(f"{arguments.requests} requests in {steps.seconds:.0f} s, {dict(steps.statuses)}")
    for number, (resident, private) in enumerate(
        zip(steps.resident_mb, steps.private_mb, strict=True), start=1
    ):
        after = number * arguments.requests // _STEPS
        print(f"after {after:6}: resident {resident:6.1f} MB, private {private:6.1f} MB")
    held = abs(steps.growth) <= BAR and set(steps.statuses) == {200}
    print(f"growth {steps.growth:+.1%}, bar {BAR:.0%}: {'held' if held else 'BROKEN'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
