"""A simple real mix of traffic: mostly counts, some masks, some per-nucleus answers, some probes.

    pip install locust
    locust -f tests/load/locustfile.py --host http://127.0.0.1:8000

Every user paces itself (`constant_throughput`): a server that stalls falls behind its schedule
instead of quietly being asked less. An answer 503 with a Retry-After is a rejection, reported under
a name of its own, not a failure.
"""

from pathlib import Path

from locust import HttpUser, constant_throughput, task
from locust.clients import ResponseContextManager

IMAGES = {
    path.name: path.read_bytes()
    for path in sorted((Path(__file__).parents[1] / "data" / "images").glob("*.png"))
}
SMALL = [data for name, data in IMAGES.items() if name.startswith("nucls")]  # 256 x 256
TILES = [data for name, data in IMAGES.items() if name.startswith("tnbc")]  # 512 x 512


class Laboratory(HttpUser):
    """A laboratory system that files counts, and now and then looks at a mask."""

    wait_time = constant_throughput(1)

    def on_start(self) -> None:
        """Begin with the first image."""
        self._turn = 0

    def _next(self, images: list[bytes]) -> bytes:
        self._turn += 1
        return images[self._turn % len(images)]

    def _post(self, name: str, image: bytes, query: str = "", accept: str = "*/*") -> None:
        with self.client.post(
            f"/segment{query}",
            data=image,
            headers={"Content-Type": "image/png", "Accept": accept},
            name=name,
            catch_response=True,
        ) as response:
            self._judge(response, name)

    @staticmethod
    def _judge(response: ResponseContextManager, name: str) -> None:
        if response.status_code == 503 and response.headers.get("Retry-After", "").isdecimal():
            response.request_meta["name"] = f"{name} (rejected)"
            response.success()
        elif response.status_code != 200:
            response.failure(f"{response.status_code} {response.text[:200]}")

    @task(10)
    def count(self) -> None:
        """Count the nuclei of a 512x512 tile."""
        self._post("count 512", self._next(TILES))

    @task(5)
    def count_small(self) -> None:
        """Count the nuclei of a 256x256 tile at a stated resolution."""
        self._post("count 256", self._next(SMALL), "?mpp=0.25")

    @task(3)
    def mask(self) -> None:
        """Fetch an overlay."""
        self._post("overlay 512", self._next(TILES), "?mask=overlay", "image/png")

    @task(2)
    def nuclei(self) -> None:
        """Fetch every nucleus and the label mask."""
        self._post("nuclei 512", self._next(TILES), "?include=nuclei,mask&mask=labels")

    @task(2)
    def probe(self) -> None:
        """Ask whether it is ready, as an orchestrator does."""
        self.client.get("/health/ready")
