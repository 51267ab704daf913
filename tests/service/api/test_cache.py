"""The result cache: what is equal to what, its bound, and what it keeps of an image."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from service.api.cache import CacheKey, ResultCache
from service.images.decode import DecodedImage, ImageLimits, decode_image
from service.inference.session import ModelSession
from service.segmentation_result import Segmentation, SegmentOptions
from service.segmenter import Segmenter


class Recorder:
    def __init__(self) -> None:
        self.looks: list[bool] = []
        self.size_bytes = 0

    def cache_looked_up(self, *, hit: bool) -> None:
        self.looks.append(hit)

    def cache_changed(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes


@pytest.fixture(scope="module")
def session(tiny_model_path: Path) -> ModelSession:
    return ModelSession.load(tiny_model_path, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def image(test_data: Path) -> DecodedImage:
    data = (test_data / "images" / "nucls_test_1.png").read_bytes()
    return decode_image(data, ImageLimits())


@pytest.fixture(scope="module")
def found(session: ModelSession, image: DecodedImage) -> Segmentation:
    return Segmenter(session).segment(image.pixels)


def key_of(name: str) -> CacheKey:
    return CacheKey(name, "digest", "CPUExecutionProvider", "fp32", SegmentOptions())


def test_equal_files_decode_to_equal_images(test_data: Path) -> None:
    """Why the key may hold the file's digest in place of the pixels'."""
    for path in sorted((test_data / "images").glob("*.png")):
        first, second = (decode_image(path.read_bytes(), ImageLimits()) for _ in range(2))
        assert np.array_equal(first.pixels, second.pixels)
        assert dataclasses.replace(first, pixels=second.pixels) == second


def put(cache: ResultCache, key: CacheKey, image: DecodedImage, found: Segmentation) -> None:
    cache.put(key, image, found, pixel_sha256="1" * 64, labels_sha256="2" * 64)


def test_what_comes_out_is_what_went_in_without_its_pixels(
    session: ModelSession, image: DecodedImage, found: Segmentation
) -> None:
    cache = ResultCache(10**7, Recorder())
    put(cache, key_of("a"), image, found)
    stored = cache.get(key_of("a"))
    assert stored is not None
    assert stored.image.pixels.size == 0
    assert (stored.pixel_sha256, stored.labels_sha256) == ("1" * 64, "2" * 64)
    again = stored.segmentation(session)
    assert again.labels.dtype == np.int32
    assert np.array_equal(again.labels, found.labels)
    assert np.array_equal(again.probability, found.probability)
    assert again.nuclei == found.nuclei
    assert again.quality == found.quality
    assert again.model is session
    assert again.timings_ms == {}
    assert stored.size_bytes > found.labels.size * 3


def test_every_part_of_the_key_counts(image: DecodedImage, found: Segmentation) -> None:
    recorder = Recorder()
    cache = ResultCache(10**7, recorder)
    key = key_of("a")
    put(cache, key, image, found)
    for change in (
        {"sha256": "b"},
        {"model_digest": "other"},
        {"provider": "CUDAExecutionProvider"},
        {"options": SegmentOptions(mpp=0.25)},
    ):
        assert cache.get(dataclasses.replace(key, **change)) is None  # type: ignore[arg-type]
    assert cache.get(key) is not None
    assert recorder.looks == [False] * 4 + [True]


def test_the_bound_is_kept_and_the_longest_unused_goes(
    image: DecodedImage, found: Segmentation
) -> None:
    recorder = Recorder()
    probe = ResultCache(10**9, recorder)
    put(probe, key_of("a"), image, found)
    size_bytes = recorder.size_bytes
    cache = ResultCache(2 * size_bytes, recorder)
    for name in ("a", "b"):
        put(cache, key_of(name), image, found)
    cache.get(key_of("a"))
    put(cache, key_of("c"), image, found)
    put(cache, key_of("c"), image, found)
    assert [cache.get(key_of(name)) is not None for name in "abc"] == [True, False, True]
    assert recorder.size_bytes == 2 * size_bytes
    small = ResultCache(size_bytes - 1, recorder)
    put(small, key_of("a"), image, found)
    assert small.get(key_of("a")) is None
