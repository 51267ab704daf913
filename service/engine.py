"""From a loaded model to a segmenter with an engine of its own, warm on every shape."""

from dataclasses import dataclass

from service.inference.batcher import BatchObserver, BatchTracer, TileBatcher
from service.inference.lanes import batch_tiles_for, plan_lanes
from service.inference.providers import ON_NVIDIA
from service.inference.session import ModelSession
from service.inference.shapes import tile_sides_px
from service.segmenter import Segmenter
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Engine:
    """One model at work; whoever replaces the model closes it once its last request is answered.

    Attributes:
        batcher: The queue and lanes of the model.
        segmenter: What requests use.
    """

    batcher: TileBatcher
    segmenter: Segmenter

    def close(self) -> None:
        """Run what is queued and end the lanes."""
        self.batcher.close()


def open_engine(
    session: ModelSession,
    settings: Settings,
    observer: BatchObserver,
    tracer: BatchTracer | None = None,
) -> Engine:
    """Start the engine of a model and warm it up. Blocking.

    Args:
        session: The loaded model.
        settings: Lanes, batches, delay and bounds.
        observer: Told of the queue and of each run.
        tracer: Traces each run; default nobody.
    """
    plan = plan_lanes(settings.concurrency, settings.threads, settings.alone_threads)
    # Where the provider has no session for a lone run (RuntimeOptions.on), each run is one.
    lanes = plan.lanes if session.has_wide or not plan.alone_threads else settings.concurrency or 1
    batcher = TileBatcher(
        session,
        observer=observer,
        tracer=tracer,
        lanes=lanes,
        max_batch_tiles=batch_tiles_for(session.provider, settings.max_batch_tiles),
        delay_s=settings.batch_delay_ms / 1000.0,
        run_alone=session.run_alone if session.has_wide else None,
    )
    spec = session.contract.input
    sides = tile_sides_px(spec.tile_px, spec.divisor)
    # On a CPU the first tile of a shape costs what one more tile would, or less; sixteen shapes
    # warmed in advance would keep 60 MB that many services never need.
    shapes = (
        [(height_px, width_px) for height_px in sides for width_px in sides]
        if session.provider in ON_NVIDIA
        else [(spec.tile_px, spec.tile_px)]
    )
    batcher.warm_up(shapes)
    segmenter = Segmenter(
        session,
        runner=batcher,
        max_batch_tiles=settings.max_batch_tiles,
        max_pixels=settings.max_pixels,
        test_time_augmentation=settings.test_time_augmentation,
    )
    return Engine(batcher, segmenter)
