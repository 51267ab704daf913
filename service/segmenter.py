"""The heart of the service and its one door: pixels in, nuclei out.

HTTP, the command line, the exporter's evaluation and slide jobs all enter here, so what is measured
is what is served.

    pixels ─► at the model's mpp ─► tiles ─► maps ─► nuclei ─► in the caller's pixels ─► figures
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.clock import Clock
from service.errors import ImageTooLargeError, InvalidParameterError
from service.inference.session import ModelSession
from service.segmentation.augmentation import TestTimeAugmentation, run_augmented
from service.segmentation.instances import separate
from service.segmentation.intervals import CountInterval, interval_of_count
from service.segmentation.measurements import Nucleus, measure
from service.segmentation.quality import QualityFlag, assess_quality
from service.segmentation.quality_reference import QualityReference
from service.segmentation.rescaling import resize_labels, resize_maps, resize_pixels
from service.segmentation.tiling import TilePlan, extract, paste, plan_tiles

MppSource = Literal["parameter", "image", "assumed_native"]

LEAST_MPP: Final = 0.05
GREATEST_MPP: Final = 5.0
# Up to this ratio to the model's resolution an image is taken as it is: nuclei vary far more in
# size, and resampling costs sharpness.
_SCALE_TOLERANCE: Final = 0.05


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What a caller may choose; None takes the model's calibrated value.

    Attributes:
        probability_threshold: Least nucleus probability of a foreground pixel, between 0 and 1.
        min_area_px: Least area of a nucleus in pixels of the caller's image.
        min_area_um2: The same in square micrometres; not both.
        mpp: Resolution of the image in micrometres per pixel, 0.05 to 5; overrules the image's own.
        seed_threshold: Least value of the distance map in a seed, between 0 and 1.
        min_mean_probability: Least mean probability of a nucleus, 0 to below 1.
    """

    probability_threshold: float | None = None
    min_area_px: float | None = None
    min_area_um2: float | None = None
    mpp: float | None = None
    seed_threshold: float | None = None
    min_mean_probability: float | None = None


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """The values that were used.

    Attributes:
        probability_threshold: Least nucleus probability of a foreground pixel.
        seed_threshold: Least value of the distance map in a seed.
        min_area_px: Least area of a nucleus in pixels of the caller's image.
        min_mean_probability: Least mean probability of a nucleus.
        test_time_augmentation: Turned and mirrored copies whose maps were averaged.
    """

    probability_threshold: float
    seed_threshold: float
    min_area_px: float
    min_mean_probability: float = 0.0
    test_time_augmentation: TestTimeAugmentation = "none"


@dataclass(frozen=True)
class Segmentation:
    """What was found in an image; everything in pixels of the caller's image.

    Attributes:
        labels: Shape (H, W), int32, 0 background, 1..count nuclei.
        probability: Nucleus probability, shape (H, W), uint8, 0..255 for 0..1.
        nuclei: One entry a nucleus, in the order of the labels.
        count: Number of nuclei.
        foreground_fraction: Share of the pixels that belong to a nucleus, 0..1.
        mpp: Micrometres per pixel that were assumed.
        mpp_source: Where that came from.
        density_per_mm2: Nuclei per square millimetre; None when mpp is only assumed.
        mean_area_px: Mean area; None without nuclei.
        median_area_px: Median area; None without nuclei.
        mean_area_um2: Mean area; None without nuclei, or when mpp is only assumed.
        median_area_um2: Median area; None without nuclei, or when mpp is only assumed.
        options: The thresholds that were used.
        model: The model that was used.
        tiles: Tiles that the model ran on.
        timings_ms: Milliseconds spent in `tiling`, `inference`, `separation`, `measurement`,
            `quality`.
        quality: What was checked to tell whether the result can be trusted; every flag, fired or
            not.
        count_interval: Where an annotator's count is expected; None where the model states none, or
            none that holds under these options.
    """

    labels: NDArray[np.int32]
    probability: NDArray[np.uint8]
    nuclei: list[Nucleus]
    count: int
    foreground_fraction: float
    mpp: float
    mpp_source: MppSource
    density_per_mm2: float | None
    mean_area_px: float | None
    median_area_px: float | None
    mean_area_um2: float | None
    median_area_um2: float | None
    options: ResolvedOptions
    model: ModelSession
    tiles: int
    timings_ms: dict[str, float]
    quality: tuple[QualityFlag, ...] = ()
    count_interval: CountInterval | None = None

    @property
    def review_recommended(self) -> bool:
        """Whether any quality flag fired."""
        return any(flag.fired for flag in self.quality)


class Segmenter:
    """Segments images with one model. Safe to call from several threads at once."""

    def __init__(
        self,
        session: ModelSession,
        *,
        max_batch_tiles: int = 4,
        max_pixels: int = 64_000_000,
        test_time_augmentation: TestTimeAugmentation = "none",
    ) -> None:
        """Take a loaded model.

        Args:
            session: The model.
            max_batch_tiles: Most tiles in one run; bounds the memory of a run.
            max_pixels: Most pixels that an image may have once it is at the model's resolution.
            test_time_augmentation: Turned and mirrored copies of each tile whose maps are averaged;
                four or eight times the work.
        """
        self._session = session
        self._max_batch_tiles = max(1, max_batch_tiles)
        self._max_pixels = max_pixels
        self._augmentation = test_time_augmentation
        self._reference = QualityReference.from_values(session.contract.quality_reference)

    def segment(
        self,
        pixels: NDArray[np.uint8],
        image_mpp: float | None = None,
        options: SegmentOptions = SegmentOptions(),
    ) -> Segmentation:
        """Find the nuclei of an image.

        An image whose resolution differs from the model's by more than 5 % is resampled to it;
        nuclei are separated and counted there, and their labels are brought back.

        Args:
            pixels: RGB, shape (H, W, 3), uint8.
            image_mpp: Resolution that the image file states, in micrometres per pixel; ignored
                outside 0.05 to 5, where no microscope works.
            options: The caller's choices.

        Returns:
            The nuclei, in the caller's pixels.

        Raises:
            InvalidParameterError: An option is out of its range, or both least areas are given.
            ImageTooLargeError: At the model's resolution the image would exceed the bound.
            ValueError: `pixels` has not the shape or dtype above.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels of shape {pixels.shape}, {pixels.dtype}: not (H, W, 3) uint8")
        mpp, mpp_source = self._resolve_mpp(image_mpp, options)
        resolved = self._resolve_options(mpp, options)
        native_mpp = self._session.contract.input.mpp
        height_px, width_px = pixels.shape[:2]
        scale = mpp / native_mpp
        if abs(scale - 1) <= _SCALE_TOLERANCE:
            scale = 1.0
        size = max(1, round(height_px * scale)), max(1, round(width_px * scale))
        if size[0] * size[1] > self._max_pixels:
            raise ImageTooLargeError(
                f"at the model's {native_mpp} um/px this image of {width_px} x {height_px} px at "
                f"{mpp} um/px would have {size[0] * size[1]} pixels, more than {self._max_pixels}"
            )

        clock = Clock()
        native = pixels if scale == 1 else resize_pixels(pixels, size)
        plan = self._plan(*size)
        clock.lap("tiling")
        maps = self._run(native, plan, clock)
        labels = separate(
            maps,
            probability_threshold=resolved.probability_threshold,
            seed_threshold=resolved.seed_threshold,
            min_area_px=resolved.min_area_px * scale * scale,
            min_mean_probability=resolved.min_mean_probability,
        )
        probability = np.ascontiguousarray(maps[..., 0])
        if scale != 1:
            labels = resize_labels(labels, (height_px, width_px))
            probability = resize_maps(probability, (height_px, width_px))
        clock.lap("separation")
        nuclei = measure(labels, probability)
        clock.lap("measurement")
        calibrated = self._session.contract.separation
        quality = assess_quality(
            native,
            maps,
            nuclei,
            self._reference,
            probability_threshold=calibrated.probability_threshold,
            seed_threshold=calibrated.seed_threshold,
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
        )

    def _resolve_mpp(
        self, image_mpp: float | None, options: SegmentOptions
    ) -> tuple[float, MppSource]:
        if options.mpp is not None:
            _check_range("mpp", options.mpp, LEAST_MPP, GREATEST_MPP)
            return options.mpp, "parameter"
        if image_mpp is not None and LEAST_MPP <= image_mpp <= GREATEST_MPP:
            return image_mpp, "image"
        return self._session.contract.input.mpp, "assumed_native"

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
        return plan_tiles(height_px, width_px, spec.tile_px, spec.halo_px, spec.divisor)

    def _run(self, pixels: NDArray[np.uint8], plan: TilePlan, clock: Clock) -> NDArray[np.uint8]:
        """Run all tiles, a batch at a time, so that memory grows with the batch and not with N."""
        channels = len(self._session.contract.output.channels)
        maps = np.empty((plan.height_px, plan.width_px, channels), dtype=np.uint8)
        for start in range(0, len(plan), self._max_batch_tiles):
            tiles = extract(pixels, plan, start, start + self._max_batch_tiles)
            clock.lap("tiling")
            tile_maps = run_augmented(self._session.run, tiles, self._augmentation)
            clock.lap("inference")
            paste(maps, tile_maps, plan, start)
            clock.lap("tiling")
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
