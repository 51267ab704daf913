"""The heart of the service and its one door: pixels in, nuclei out.

HTTP, the command line, the exporter's evaluation and slide jobs all enter here, so what is measured
is what is served.

    pixels ─► at the model's mpp ─► tiles ─► maps ─► nuclei ─► in the caller's pixels ─► figures
"""

import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.clock import Clock
from service.errands import Errands
from service.errors import ImageTooLargeError, InvalidParameterError
from service.inference.runner import DirectRunner, TileRunner, Tiles
from service.inference.session import ModelSession
from service.inference.shapes import side_step_px
from service.inference.ticket import Ticket
from service.segmentation.augmentation import COPIES, TestTimeAugmentation, stream_augmented
from service.segmentation.instances import separate
from service.segmentation.intervals import CountInterval, interval_of_count
from service.segmentation.measurements import Nucleus, measure
from service.segmentation.quality import judge_quality
from service.segmentation.quality_figures import measure_image, with_outlines
from service.segmentation.quality_reference import QualityReference
from service.segmentation.rescaling import resize_labels, resize_maps, resize_pixels
from service.segmentation.tiling import TilePlan, extract, paste, plan_tiles
from service.segmentation_result import (
    MppSource,
    ResolvedOptions,
    Segmentation,
    SegmentOptions,
)

CALIBRATED: Final = SegmentOptions()
"""A caller who chooses nothing."""

LEAST_MPP: Final = 0.05
GREATEST_MPP: Final = 5.0
# Up to this ratio to the model's resolution an image is taken as it is: nuclei vary far more in
# size, and resampling costs sharpness.
_SCALE_TOLERANCE: Final = 0.05


class Segmenter:
    """Segments images with one model. Safe to call from several threads at once."""

    def __init__(
        self,
        session: ModelSession,
        *,
        runner: TileRunner | None = None,
        max_batch_tiles: int = 4,
        max_pixels: int = 64_000_000,
        test_time_augmentation: TestTimeAugmentation = "none",
    ) -> None:
        """Take a loaded model.

        Args:
            session: The model.
            runner: Who runs the tiles on it; default this very thread.
            max_batch_tiles: Most tiles of an image handed to the runner at once; bounds memory.
            max_pixels: Most pixels that an image may have once it is at the model's resolution.
            test_time_augmentation: Turned and mirrored copies of each tile whose maps are averaged;
                four or eight times the work.
        """
        self._session = session
        self._runner: TileRunner = DirectRunner(session) if runner is None else runner
        self._max_batch_tiles = max(1, max_batch_tiles)
        self._max_pixels = max_pixels
        self._augmentation = test_time_augmentation
        self._reference = QualityReference.from_values(session.contract.quality_reference)

    def segment(
        self,
        pixels: NDArray[np.uint8],
        image_mpp: float | None = None,
        options: SegmentOptions = CALIBRATED,
        ticket: Ticket | None = None,
        errands: Errands | None = None,
    ) -> Segmentation:
        """Find the nuclei of an image.

        An image whose resolution differs from the model's by more than 5 % is resampled to it;
        nuclei are separated and counted there, and their labels are brought back.

        Args:
            pixels: RGB, shape (H, W, 3), uint8.
            image_mpp: Resolution that the image file states, in micrometres per pixel; ignored
                outside 0.05 to 5, where no microscope works.
            options: The caller's choices.
            ticket: Class and deadline of the request; default routine work without a deadline.
            errands: Who does beside this thread what needs no nuclei, and is told of the stages;
                default nobody.

        Returns:
            The nuclei, in the caller's pixels.

        Raises:
            InvalidParameterError: An option is out of its range, both least areas are given, or the
                model has no distance map.
            ImageTooLargeError: At the model's resolution the image would exceed the bound.
            DeadlineExceededError: The ticket's deadline passed; checked between tiles and stages.
            ClientGoneError: The ticket was given up.
            ValueError: `pixels` has not the shape or dtype above.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels of shape {pixels.shape}, {pixels.dtype}: not (H, W, 3) uint8")
        mpp, mpp_source = self._resolve_mpp(image_mpp, options)
        resolved = self._resolve_options(mpp, options)
        if options.keep_distance:
            self._check_distance()
        ticket = Ticket() if ticket is None else ticket
        errands = Errands() if errands is None else errands
        height_px, width_px = pixels.shape[:2]
        scale, size = self._native_size(height_px, width_px, mpp)

        clock = Clock()
        native = pixels if scale == 1 else resize_pixels(pixels, size)
        plan = self._plan(*size)
        clock.lap("tiling")
        maps = self._run(native, plan, clock, ticket)
        ticket.check()
        calibrated = self._session.contract.separation
        figures = errands.send(
            lambda: measure_image(
                native,
                maps,
                probability_threshold=calibrated.probability_threshold,
                seed_threshold=calibrated.seed_threshold,
            )
        )
        errands.maps_made()
        labels = separate(
            maps,
            probability_threshold=resolved.probability_threshold,
            seed_threshold=resolved.seed_threshold,
            min_area_px=resolved.min_area_px * scale * scale,
            min_mean_probability=resolved.min_mean_probability,
        )
        probability = np.ascontiguousarray(maps[..., 0])
        distance = np.ascontiguousarray(maps[..., 1]) if options.keep_distance else None
        outlined: list[Nucleus] | None = None
        if scale != 1:
            # Quality is judged at the model's resolution: on a coarse grid every outline is dented.
            outlined = measure(labels, probability)
            labels = resize_labels(labels, (height_px, width_px))
            probability = resize_maps(probability, (height_px, width_px))
            distance = None if distance is None else resize_maps(distance, (height_px, width_px))
        errands.labels_made(labels)
        clock.lap("separation")
        nuclei = measure(labels, probability)
        clock.lap("measurement")
        quality = judge_quality(
            with_outlines(figures.result(), nuclei if outlined is None else outlined),
            self._reference,
            mpp=mpp,
        )
        clock.lap("quality")

        areas_px = np.array([nucleus.area_px for nucleus in nuclei], dtype=np.float64)
        mean_px, median_px = (
            (float(areas_px.mean()), float(np.median(areas_px))) if nuclei else (None, None)
        )
        # Physical figures of an assumed resolution would look like measurements.
        known_mpp = None if mpp_source == "assumed_native" else mpp
        image_mm2 = None if known_mpp is None else height_px * width_px * known_mpp**2 / 1e6
        return Segmentation(
            labels=labels,
            probability=probability,
            nuclei=nuclei,
            count=len(nuclei),
            foreground_fraction=float(areas_px.sum()) / (height_px * width_px),
            mpp=mpp,
            mpp_source=mpp_source,
            density_per_mm2=None if image_mm2 is None else len(nuclei) / image_mm2,
            mean_area_px=mean_px,
            median_area_px=median_px,
            mean_area_um2=_to_um2(mean_px, known_mpp),
            median_area_um2=_to_um2(median_px, known_mpp),
            options=resolved,
            model=self._session,
            tiles=len(plan),
            timings_ms=clock.laps_ms,
            quality=quality,
            count_interval=(
                self._count_interval(len(nuclei), resolved, mpp) if scale == 1 else None
            ),
            distance=distance,
        )

    @property
    def session(self) -> ModelSession:
        """The model."""
        return self._session

    def tiles_of(self, height_px: int, width_px: int, mpp: float | None = None) -> int:
        """Count the tiles that an image makes the model run on, before it is decoded.

        Args:
            height_px: Height of the image.
            width_px: Width of the image.
            mpp: Its resolution in micrometres per pixel, where it is known; default the model's.

        Raises:
            ImageTooLargeError: At the model's resolution the image would exceed the bound.
        """
        known_mpp = self._session.contract.input.mpp if mpp is None else mpp
        plan = self._plan(*self._native_size(height_px, width_px, known_mpp)[1])
        return len(plan) * len(COPIES[self._augmentation])

    def _native_size(
        self, height_px: int, width_px: int, mpp: float
    ) -> tuple[float, tuple[int, int]]:
        """Return the factor to the model's resolution, and height and width there."""
        native_mpp = self._session.contract.input.mpp
        scale = mpp / native_mpp
        if abs(scale - 1) <= _SCALE_TOLERANCE:
            scale = 1.0
        size = max(1, round(height_px * scale)), max(1, round(width_px * scale))
        if size[0] * size[1] > self._max_pixels:
            raise ImageTooLargeError(
                f"at the model's {native_mpp} um/px this image of {width_px} x {height_px} px at "
                f"{mpp} um/px would have {size[0] * size[1]} pixels, more than {self._max_pixels}"
            )
        return scale, size

    def _resolve_mpp(
        self, image_mpp: float | None, options: SegmentOptions
    ) -> tuple[float, MppSource]:
        if options.mpp is not None:
            _check_range("mpp", options.mpp, LEAST_MPP, GREATEST_MPP)
            return options.mpp, "parameter"
        if image_mpp is not None and LEAST_MPP <= image_mpp <= GREATEST_MPP:
            return image_mpp, "image"
        return self._session.contract.input.mpp, "assumed_native"

    def _check_distance(self) -> None:
        contract = self._session.contract
        if "distance" not in contract.output.channels:
            raise InvalidParameterError(
                f"mask=distance: {contract.name} has no distance map, it separates nuclei by their"
                " shape alone",
                parameter="mask",
            )

    def _resolve_options(self, mpp: float, options: SegmentOptions) -> ResolvedOptions:
        separation = self._session.contract.separation
        threshold = options.probability_threshold
        if threshold is None:
            threshold = separation.probability_threshold
        elif not 0 < threshold < 1:
            raise InvalidParameterError(
                f"threshold must lie between 0 and 1, not {threshold}", parameter="threshold"
            )
        if options.min_area_px is not None and options.min_area_um2 is not None:
            raise InvalidParameterError(
                "give min_area_px or min_area_um2, not both", parameter="min_area_um2"
            )
        if options.min_area_px is not None:
            _check_range("min_area_px", options.min_area_px, 0, math.inf)
            min_area_px = options.min_area_px
        else:
            min_area_um2 = options.min_area_um2
            if min_area_um2 is None:
                min_area_um2 = separation.min_area_um2
            _check_range("min_area_um2", min_area_um2, 0, math.inf)
            min_area_px = min_area_um2 / mpp**2
        seed_threshold = options.seed_threshold
        if seed_threshold is None:
            seed_threshold = separation.seed_threshold
        elif not 0 < seed_threshold < 1:
            raise InvalidParameterError(
                f"seed_threshold must lie between 0 and 1, not {seed_threshold}",
                parameter="seed_threshold",
            )
        least_mean = options.min_mean_probability
        if least_mean is None:
            least_mean = separation.min_mean_probability
        elif not 0 <= least_mean < 1:
            raise InvalidParameterError(
                f"min_mean_probability must be at least 0 and below 1, not {least_mean}",
                parameter="min_mean_probability",
            )
        return ResolvedOptions(
            threshold, seed_threshold, min_area_px, least_mean, self._augmentation
        )

    def _count_interval(
        self, count: int, options: ResolvedOptions, mpp: float
    ) -> CountInterval | None:
        """Return the interval where everything is in force that it was calibrated under."""
        contract = self._session.contract
        spec, calibrated = contract.count_interval, contract.separation
        if spec is None or not (
            options.probability_threshold == calibrated.probability_threshold
            and options.seed_threshold == calibrated.seed_threshold
            and options.min_mean_probability == calibrated.min_mean_probability
            and math.isclose(options.min_area_px * mpp**2, calibrated.min_area_um2)
            and options.test_time_augmentation == spec.test_time_augmentation
        ):
            return None
        return interval_of_count(
            count,
            lower_ratio=spec.lower_ratio,
            upper_ratio=spec.upper_ratio,
            allowance=spec.allowance,
            level=spec.level,
            method=spec.method,
        )

    def _plan(self, height_px: int, width_px: int) -> TilePlan:
        spec = self._session.contract.input
        step_px = side_step_px(spec.tile_px, spec.divisor)
        return plan_tiles(height_px, width_px, spec.tile_px, spec.halo_px, spec.divisor, step_px)

    def _run(
        self, pixels: NDArray[np.uint8], plan: TilePlan, clock: Clock, ticket: Ticket
    ) -> NDArray[np.uint8]:
        """Run all tiles, a chunk at a time, so that memory grows with the chunk and not with N."""
        channels = len(self._session.contract.output.channels)
        maps = np.empty((plan.height_px, plan.width_px, channels), dtype=np.uint8)

        def cut() -> Iterator[Tiles]:
            for start in range(0, len(plan), self._max_batch_tiles):
                clock.lap("inference")
                tiles = extract(pixels, plan, start, start + self._max_batch_tiles)
                clock.lap("tiling")
                yield tiles

        def run(chunks: Iterable[Tiles]) -> Iterator[Tiles]:
            return self._runner.stream(chunks, ticket)

        start = 0
        for tile_maps in stream_augmented(run, cut(), self._augmentation):
            clock.lap("inference")
            paste(maps, tile_maps, plan, start)
            start += len(tile_maps)
            clock.lap("tiling")
        clock.lap("inference")
        return maps


def _check_range(parameter: str, value: float, least: float, greatest: float) -> None:
    """Refuse NaN, infinity and what lies outside `least` to `greatest`."""
    if not (math.isfinite(value) and least <= value <= greatest):
        bounds = f"at least {least}" if math.isinf(greatest) else f"within {least} to {greatest}"
        raise InvalidParameterError(
            f"{parameter} must be {bounds}, not {value}", parameter=parameter
        )


def _to_um2(area_px: float | None, mpp: float | None) -> float | None:
    return None if area_px is None or mpp is None else area_px * mpp * mpp
