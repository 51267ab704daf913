"""How many runs of a model at once, with how many threads each.

`python -m benchmarks.engine` measures it; docs/serving.md tells when to choose otherwise.
"""

from dataclasses import dataclass

from service.inference.processors import usable_processors
from service.inference.providers import ON_NVIDIA

_LEAST_WORKERS, _MOST_WORKERS = 2, 8


@dataclass(frozen=True, slots=True)
class LanePlan:
    """The engine of one session.

    Attributes:
        lanes: Runs at once.
        threads: Threads of each run on a CPU.
    """

    lanes: int
    threads: int


def plan_lanes(concurrency: int, threads: int, processors: int | None = None) -> LanePlan:
    """Fill in what the settings leave open.

    One lane with a thread a processor gives a single image its shortest time. Under steady load
    one-thread lanes carry more: on two cores 1.04 of a bare loop, not 0.84 (docs/performance.md).

    Args:
        concurrency: Runs at once; 0 chooses.
        threads: Threads of each; 0 chooses.
        processors: Processors of this process; default what affinity and the container leave.
    """
    available = usable_processors() if processors is None else processors
    lanes = concurrency or 1
    return LanePlan(lanes, threads or max(1, available // lanes))


def plan_workers(workers: int, processors: int | None = None) -> int:
    """Fill in how many images are decoded, separated and encoded at once.

    Two at least, so that one image is separated while the model runs on another; no more than feed
    a fast GPU, since each holds the memory of its image.

    Args:
        workers: The setting; 0 chooses.
        processors: Processors of this process; default what affinity and the container leave.
    """
    available = usable_processors() if processors is None else processors
    return workers or min(_MOST_WORKERS, max(_LEAST_WORKERS, available))


def batch_tiles_for(provider: str, max_batch_tiles: int) -> int:
    """Return the most tiles of one run: the setting's on a GPU, one elsewhere."""
    return max_batch_tiles if provider in ON_NVIDIA else 1
