"""The day of a laboratory as load: tiles, fields, masks, urgent cases, bad input, probes.

    pip install 'locust>=2.32'
    locust -f tests/load/locustfile.py --headless -u 4 -r 4 -t 60s --host http://127.0.0.1:8000

`-u 4` is four arrivals a second, open loop (see arrivals.py); it ends with a table of p50 and p99
from the scheduled arrival, refusals and errors apart. Locust's own table shows the same requests.
"""

import sys
from pathlib import Path

from locust import task

# Locust puts no folder of its own on the path where the file is given with -f.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from arrivals import ArrivalUser

FOLDER = Path(__file__).resolve().parent
TILES_JPEG = [path.read_bytes() for path in sorted((FOLDER / "images").glob("tnbc_*.jpg"))]
TILES_PNG = [
    path.read_bytes() for path in sorted((FOLDER.parent / "data" / "images").glob("tnbc_*.png"))
]
FIELD = (FOLDER / "images" / "field_2000.jpg").read_bytes()

JPEG = {"Content-Type": "image/jpeg"}
PNG = {"Content-Type": "image/png"}
ACCEPT_PNG = {"Accept": "image/png"}


class Laboratory(ArrivalUser):
    """What a laboratory system sends. The weights add up to 100."""

    _turn = 0

    def _next(self, images: list[bytes]) -> bytes:
        self._turn += 1
        return images[self._turn % len(images)]

    @task(38)
    def count_jpeg(self) -> None:
        """Count the nuclei of a 512x512 JPEG tile: the daily work."""
        self.send("count jpeg", "/segment", self._next(TILES_JPEG), JPEG)

    @task(18)
    def count_png(self) -> None:
        """The same of a PNG."""
        self.send("count png", "/segment", self._next(TILES_PNG), PNG)

    @task(10)
    def stat(self) -> None:
        """Somebody waits at the microscope, for ten seconds."""
        headers = {**JPEG, "X-Request-Timeout-Ms": "10000"}
        self.send("stat", "/segment?priority=stat", self._next(TILES_JPEG), headers)

    @task(8)
    def batch(self) -> None:
        """A study that has time."""
        self.send("batch", "/segment?priority=batch", self._next(TILES_JPEG), JPEG)

    @task(9)
    def overlay(self) -> None:
        """Look at the outlines."""
        path = "/segment?mask=overlay"
        self.send("overlay png", path, self._next(TILES_JPEG), {**JPEG, **ACCEPT_PNG})

    @task(5)
    def nuclei(self) -> None:
        """Fetch every nucleus and the label mask."""
        path = "/segment?include=nuclei,mask&mask=labels"
        self.send("nuclei json", path, self._next(TILES_JPEG), JPEG)

    @task(2)
    def field(self) -> None:
        """Count a field of 2000x2000, 25 tiles of work."""
        self.send("field 2000", "/segment", FIELD, JPEG)

    @task(2)
    def no_image(self) -> None:
        """A report sent by mistake."""
        self.send("bad: no image", "/segment", b"%PDF-1.7 a report", PNG, expected=422)

    @task(2)
    def cut_off(self) -> None:
        """A file whose end is missing."""
        cut = TILES_PNG[0][:10_000]
        self.send("bad: cut off", "/segment", cut, PNG, expected=415)

    @task(1)
    def bad_parameter(self) -> None:
        """A threshold that is none."""
        path = "/segment?threshold=2"
        self.send("bad: parameter", path, self._next(TILES_JPEG), JPEG, expected=422)

    @task(5)
    def probe(self) -> None:
        """Ask whether it is ready, as an orchestrator does."""
        self.send("probe", "/health/ready")
