"""Ray Serve: PEER_WORKERS replicas of one deployment, the image as the body of the request."""

import asyncio
import os

# Its own processes get two minutes to start, as on a machine that is busy; read at import.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")

import ray
import work
from ray import serve
from starlette.requests import Request

THREADS = os.environ["PEER_THREADS"]
MODEL = os.environ["PEER_MODEL"]


@serve.deployment(
    num_replicas=int(os.environ["PEER_WORKERS"]),
    # As many as any of the clients asks at once; the default would refuse none either, but queue
    # them in the proxy.
    max_ongoing_requests=128,
    ray_actor_options={"num_cpus": 0.5},
)
class Count:
    """Counts nuclei."""

    def __init__(self, threads: str, model: str) -> None:
        os.environ.update(PEER_THREADS=threads, PEER_MODEL=model)
        self.session = work.open_session()

    async def __call__(self, request: Request) -> dict[str, int]:
        """Count, off the replica's event loop."""
        return await asyncio.to_thread(work.answer, self.session, await request.body())


if __name__ == "__main__":
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])})
    serve.run(Count.bind(THREADS, MODEL), route_prefix="/count", blocking=True)
