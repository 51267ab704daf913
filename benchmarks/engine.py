"""Which lanes, threads and workers carry most on this machine, measured in one run.

    python -m benchmarks.engine [--models-dir DIR] [--seconds 4] [--rounds 3]

Each layout decodes, segments and answers 512x512 tiles without HTTP, as the service's workers do.
`alone` is the threads of a tile that is alone, where the layout has a session for such tiles.
All layouts take turns in each round, so that whatever else the machine does hits all alike; the
median over the rounds is shown, and its ratio to a bare `session.run` loop on all threads.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2

from service.api.answer import make_result
from service.api.parameters import SegmentParameters
from service.api.representation import represent
from service.images.decode import ImageLimits, decode_image
from service.inference.batcher import TileBatcher
from service.inference.processors import usable_processors
from service.inference.providers import RuntimeOptions
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.session import ModelSession
from service.provenance.keys import open_keyring
from service.segmenter import Segmenter
from service.telemetry import Metrics

IMAGES = Path(__file__).resolve().parents[1] / "tests" / "data" / "images"


@dataclass(frozen=True)
class Layout:
    """How the processors are shared out.

    Attributes:
        lanes: Runs of the model at once.
        threads: Threads of each run.
        alone_threads: Threads of a run that goes alone; 0 where it has `threads`.
        workers: Images decoded, separated and encoded at once.
    """

    lanes: int
    threads: int
    alone_threads: int
    workers: int


def layouts(processors: int) -> list[Layout]:
    """Return what is worth comparing on a machine."""
    lanes = [(1, processors, 0), (processors, 1, 0), (processors, 1, processors)]
    if processors >= 4:
        lanes.insert(1, (processors // 2, 2, 0))
    workers = sorted({1, processors, processors + 1, 2 * processors})
    return [Layout(*shared, extra) for shared in lanes for extra in workers]


def open_session(models_dir: Path, lanes: int, threads: int, alone_threads: int) -> ModelSession:
    """Load the default model for so many runs at once, with so many threads each."""
    options = RuntimeOptions(
        threads=threads,
        streams=lanes,
        alone_threads=alone_threads,
        alone_on_openvino=alone_threads > 0,
    )
    return ModelRepository.open(models_dir, options=options).get()


def shared_out(layout: Layout) -> tuple[int, int, int]:
    """Return what a session is loaded for, whoever its workers are."""
    return layout.lanes, layout.threads, layout.alone_threads


def tiles_per_second(action: Callable[[int], object], workers: int, seconds: float) -> float:
    """Call `action(turn)` from so many threads for a while; return calls a second."""
    done = [0] * workers
    stop_s = time.perf_counter() + seconds

    def work(worker: int) -> None:
        while time.perf_counter() < stop_s:
            action(worker + done[worker])
            done[worker] += 1

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start_s)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=embedded_models_dir())
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    files = [path.read_bytes() for path in sorted(IMAGES.glob("tnbc_*.png"))]
    pixels = decode_image(files[0], ImageLimits()).pixels[None]
    processors = usable_processors()
    compared = layouts(processors)
    sessions: dict[tuple[int, int, int], ModelSession] = {
        shared: open_session(arguments.models_dir, *shared)
        for shared in sorted({shared_out(layout) for layout in compared})
    }
    parameters, limits = SegmentParameters(), ImageLimits()
    with tempfile.TemporaryDirectory() as data_dir:
        keyring = open_keyring(Path(data_dir))
    bare: list[float] = []
    measured: dict[Layout, list[float]] = {layout: [] for layout in compared}
    for _ in range(arguments.rounds):
        run = sessions[1, processors, 0].run
        bare.append(tiles_per_second(lambda _, run=run: run(pixels), 1, arguments.seconds))
        for layout in compared:
            session = sessions[shared_out(layout)]
            batcher = TileBatcher(
                session,
                observer=Metrics(),
                lanes=layout.lanes,
                run_alone=session.run_alone if session.has_wide else None,
            )
            segmenter = Segmenter(session, runner=batcher)

            def answer(turn: int, segmenter: Segmenter = segmenter) -> None:
                data = files[turn % len(files)]
                represent(
                    make_result(data, segmenter, parameters, limits),
                    "application/json",
                    parameters,
                    keyring=keyring,
                )

            measured[layout].append(tiles_per_second(answer, layout.workers, arguments.seconds))
            batcher.close()

    ceiling = statistics.median(bare)
    session = sessions[1, processors, 0]
    print(f"{session.contract.name} on {session.provider}, {processors} processors")
    print(f"bare session.run: {ceiling:.2f} tiles/s")
    print("lanes  threads  alone  workers  tiles/s  of bare")
    for layout, values in measured.items():
        median = statistics.median(values)
        alone_threads = layout.alone_threads or layout.threads
        row = f"{layout.lanes:5}  {layout.threads:7}  {alone_threads:5}  {layout.workers:7}"
        print(f"{row}  {median:7.2f}  {median / ceiling:7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
