"""Hot swap and rollback under load, on a real server over real sockets.

    python -m benchmarks.model_swap [--requests 1000] [--clients 4] [--side 256]

The embedded model is served as two versions of different content; while clients segment without
pause, another goes back and forth between the versions. Every answer must be a 200 whose digest
is that of the version it names, and the count of a version must never change. Needs the extra
`train`, for `onnx`.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import httpx2 as httpx
import onnx
from onnx import helper

from benchmarks.http_overhead import running_service
from service.inference.contract import CONTRACT_KEY
from service.inference.repository import embedded_models_dir

IMAGE = Path(__file__).resolve().parents[1] / "tests" / "data" / "images" / "tnbc_p08_2.png"
NAME = "efficientnetv2b0_unet"
OTHER_VERSION = "1.0.0-other"
OTHER_THRESHOLD = 0.6


def write_versions(root: Path) -> None:
    """Copy the embedded model, and once more with another threshold, so that counts differ."""
    source = next(path.parent for path in embedded_models_dir().glob(f"{NAME}/*/model.onnx"))
    folder = root / NAME / source.name
    folder.mkdir(parents=True)
    shutil.copy(source / "model.onnx", folder)
    model = onnx.load(folder / "model.onnx")
    entry = next(item for item in model.metadata_props if item.key == CONTRACT_KEY)
    contract = json.loads(entry.value)
    contract["version"] = OTHER_VERSION
    contract["separation"]["probability_threshold"] = OTHER_THRESHOLD
    helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
    other = root / NAME / OTHER_VERSION
    other.mkdir()
    onnx.save(model, other / "model.onnx")


async def measure(url: str, requests: int, clients: int, data: bytes) -> bool:
    """Segment and swap at once; print what came of it and return whether all was as it must be."""
    statuses: Counter[int] = Counter()
    seen: Counter[tuple[str, str, int]] = Counter()
    swaps, left = 0, requests
    headers = {"Content-Type": "image/png"}
    async with httpx.AsyncClient(base_url=url, timeout=120.0) as client:

        async def segment() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                response = await client.post("/segment", content=data, headers=headers)
                statuses[response.status_code] += 1
                if response.status_code == 200:
                    body = response.json()
                    model = body["model"]
                    seen[model["version"], model["digest"], body["count"]] += 1

        async def swap() -> None:
            nonlocal swaps
            path = f"/models/{NAME}/versions/{OTHER_VERSION}/activate"
            (await client.post(path)).raise_for_status()
            while left > 0:
                (await client.post(f"/models/{NAME}/rollback")).raise_for_status()
                swaps += 1

        start_s = time.perf_counter()
        await asyncio.gather(swap(), *(segment() for _ in range(clients)))
        elapsed_s = time.perf_counter() - start_s
    print(f"{requests} requests in {elapsed_s:.1f} s, {swaps} swaps, statuses {dict(statuses)}")
    for (version, digest, count), times in sorted(seen.items()):
        print(f"  {version}  {digest[:12]}  {count} nuclei  {times} answers")
    versions_seen = {version for version, _, _ in seen}
    return set(statuses) == {200} and len(seen) == len(versions_seen) == 2


def main() -> int:
    """Run it; 1 where an answer failed or was mixed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--side", type=int, default=256, help="Side of the image in pixels.")
    arguments = parser.parse_args()
    pixels = cv2.imread(str(IMAGE))
    if pixels is None:
        sys.exit(f"{IMAGE} cannot be read")
    data = cv2.imencode(".png", pixels[: arguments.side, : arguments.side])[1].tobytes()
    os.environ |= {"KARYON_ADMIN_ROUTES": "true", "KARYON_LOAD_VERSIONS": "active"}
    with tempfile.TemporaryDirectory() as folder:
        write_versions(Path(folder))
        with running_service(Path(folder), threads=0) as (server, port):
            before_mb = server.memory_info().rss / 1e6
            sound = asyncio.run(
                measure(f"http://127.0.0.1:{port}", arguments.requests, arguments.clients, data)
            )
            after_mb = server.memory_info().rss / 1e6
    print(f"resident {before_mb:.0f} MB before, {after_mb:.0f} MB after")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
