"""How many runs of a model at once, with how many threads each.

`python -m benchmarks.engine` measures it; docs/serving.md tells when to choose otherwise.
"""

import math
from dataclasses import dataclass

from service.inference.processors import usable_processors
from service.inference.providers import ON_NVIDIA

_LEAST_WORKERS, _MOST_WORKERS = 2, 8
_MOST_LANES = 8


@dataclass(frozen=True, slots=True)
class LanePlan:
    """The engine of one session.

    Attributes:
        lanes: Runs at once.
        threads: Threads of each run on a CPU.
        alone_threads: Threads of a run that goes alone on a CPU; 0 where each run has `threads`.
    """

    lanes: int
    threads: int
    alone_threads: int = 0


def plan_lanes(
    concurrency: int, threads: int, alone_threads: int = 0, processors: int | None = None
) -> LanePlan:
    """Fill in what the settings leave open.

    With a thread a processor a single image takes its shortest time; under load, runs of one thread
    side by side carry more (docs/performance.md). Where nothing is set, a tile that is alone gets
    the former and others the latter. What is set holds for every run.

    Args:
        concurrency: Runs at once; 0 chooses.
        threads: Threads of each; 0 chooses.
        alone_threads: Threads of a run that goes alone; 0 chooses.
        processors: Processors of this process; default what affinity and the container leave.
    """
    available = usable_processors() if processors is None else processors
    if concurrency or threads or available == 1:
        lanes = concurrency or 1
        return LanePlan(lanes, threads or max(1, available // lanes), alone_threads)
    # Each run holds the memory of its tile, and more than there are workers seldom meet.
    each = math.ceil(available / _MOST_LANES)
    return LanePlan(available // each, each, alone_threads or available)


def plan_workers(workers: int, processors: int | None = None) -> int:
    """Fill in how many images are decoded, separated and encoded at once.

    One more than the model runs at once, so that every processor has a tile while an image is
    decoded or separated; no more than feed a fast GPU, since each holds the memory of its image.

    Args:
        workers: The setting; 0 chooses.
        processors: Processors of this process; default what affinity and the container leave.
    """
    available = usable_processors() if processors is None else processors
    return workers or min(_MOST_WORKERS, max(_LEAST_WORKERS, available + 1))


def batch_tiles_for(provider: str, max_batch_tiles: int) -> int:
    """Return the most tiles of one run: the setting's on a GPU, one elsewhere."""
    return max_batch_tiles if provider in ON_NVIDIA else 1
