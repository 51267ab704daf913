"""How fast each precision of a model runs here, against the file as it is on the default provider.

    python -m benchmarks.precision models/NAME/VERSION [--threads 2] [--rounds 10]

Runs `model.onnx` on onnxruntime's own CPU provider, with the graph as it is written and as the
service rewrites it (docs/adr/0011), its variants there too, and, where this onnxruntime brings
OpenVINO along, `model.onnx` in float32 and bfloat16 and the variants on OpenVINO. All take turns in
every round, so that what else the machine does hits all of them alike; the ratio to look at is the
median over rounds of the first row's time divided by the other's. `processor` counts the time of
all threads, which other work on the machine changes little.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.cost import TILE_PX, machine
from export.openvino import has_openvino, open_openvino
from service.inference.processors import usable_processors
from service.inference.providers import RuntimeOptions
from service.inference.session import ModelSession

VARIANTS = ("int8", "fp16")


def contenders(folder: Path, threads: int) -> dict[str, ModelSession]:
    """Everything that can run here; the file as it is, on the CPU provider, comes first."""
    reference = folder / "model.onnx"
    as_written = RuntimeOptions(threads=threads, rewrite=False)
    loaded = {
        "CPU float32": ModelSession.load(reference, provider="cpu", options=as_written),
        "CPU float32, rewritten": ModelSession.load(reference, provider="cpu", threads=threads),
    }
    paths = {name: folder / f"model.{name}.onnx" for name in VARIANTS}
    for name, path in paths.items():
        if path.exists():
            loaded[f"CPU {name}"] = ModelSession.load(path, provider="cpu", threads=threads)
    if not has_openvino():
        return loaded
    loaded["OpenVINO float32"] = open_openvino(reference, "f32", threads=threads)
    loaded["OpenVINO bf16"] = open_openvino(reference, "bf16", threads=threads)
    for name, path in paths.items():
        if path.exists():
            loaded[f"OpenVINO {name}"] = open_openvino(path, "f32", threads=threads)
    return loaded


def measure(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor milliseconds of one run."""
    wall_s, processor_s = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall_s) * 1000, (time.process_time() - processor_s) * 1000


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    tile = random.integers(0, 256, (1, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    sessions = contenders(arguments.folder, arguments.threads)
    for session in sessions.values():
        session.run(tile)
    times = {name: np.array([(0.0, 0.0)] * arguments.rounds) for name in sessions}
    for number in range(arguments.rounds):
        for name, session in sessions.items():
            times[name][number] = measure(lambda session=session: session.run(tile))
    print(
        f"{machine()}, {arguments.threads} threads, one tile of {TILE_PX}x{TILE_PX} px, "
        f"{arguments.rounds} rounds, medians\n"
    )
    print("| runs as | wall ms | times as fast | processor ms | times as fast |")
    print("|---|---|---|---|---|")
    base = next(iter(times.values()))
    for name, values in times.items():
        ms, ratio = np.median(values, axis=0), np.median(base / values, axis=0)
        print(f"| {name} | {ms[0]:.0f} | {ratio[0]:.2f} | {ms[1]:.0f} | {ratio[1]:.2f} |")


if __name__ == "__main__":
    main()
