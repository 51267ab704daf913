"""Results that need not be computed twice: the same file, model and parameters again.

The key holds the SHA-256 of the file as sent. Decoding is a pure function of those bytes, so equal
files have equal pixels, scale and notes, and a hit costs no decoding at all. What is kept is what
was found, never the image: labels, maps, nuclei and flags, no pixels and nothing of the
request. Answers are made anew from it, so that each has an id and a time of its own.
"""

import dataclasses
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from service.images.decode import DecodedImage
from service.inference.precision import Precision
from service.inference.session import ModelSession
from service.segmentation_result import Segmentation, SegmentOptions

_NUCLEUS_BYTES = 400  # its Python objects, measured apart from the contour
_ENTRY_BYTES = 4096


class CacheObserver(Protocol):
    """Who counts the cache's work; `service.telemetry.Metrics` does."""

    def cache_looked_up(self, *, hit: bool) -> None:
        """A result was looked for."""

    def cache_changed(self, size_bytes: int) -> None:
        """So many bytes of results are kept now."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """All that a result depends on.

    Attributes:
        sha256: Of the image file's bytes.
        model_digest: SHA-256 of the model file.
        provider: What runs the model: its rounding differs from that of others.
        precision: What it computes in: one file may run in several.
        options: The caller's choices.
    """

    sha256: str
    model_digest: str
    provider: str
    precision: Precision
    options: SegmentOptions


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result without its pixels and its model.

    Attributes:
        image: The image as it was read; its `pixels` have the shape (0, 0, 3).
        pixel_sha256: Digest of the decoded pixels.
        labels_sha256: Digest of the labels.
        findings: The fields of the `Segmentation` but for `model` and `timings_ms`.
        size_bytes: What it keeps in memory.
    """

    image: DecodedImage
    pixel_sha256: str
    labels_sha256: str
    findings: dict[str, Any]
    size_bytes: int

    def segmentation(self, model: ModelSession) -> Segmentation:
        """Return the segmentation as it was, with no stage timed.

        Args:
            model: The session that the key names.
        """
        labels = self.findings["labels"].astype(np.int32)
        return Segmentation(**{**self.findings, "labels": labels, "model": model, "timings_ms": {}})


class ResultCache:
    """The results used last, within a bound of bytes. Safe to call from several threads at once."""

    def __init__(self, max_bytes: int, observer: CacheObserver) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Most bytes that it keeps; 0 keeps nothing.
            observer: Told of each look and change.
        """
        self.max_bytes = max_bytes
        self._observer = observer
        self._results: OrderedDict[CacheKey, StoredResult] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> StoredResult | None:
        """Return what is kept under a key, and keep it longest from now on."""
        with self._lock:
            stored = self._results.get(key)
            if stored is not None:
                self._results.move_to_end(key)
        self._observer.cache_looked_up(hit=stored is not None)
        return stored

    def put(
        self,
        key: CacheKey,
        image: DecodedImage,
        segmentation: Segmentation,
        *,
        pixel_sha256: str,
        labels_sha256: str,
    ) -> None:
        """Keep a result; those used longest ago make room. One over the bound is not kept.

        Args:
            key: What it depends on.
            image: The image; its pixels are not kept.
            segmentation: What was found; its arrays are not changed later.
            pixel_sha256: Digest of the decoded pixels.
            labels_sha256: Digest of the labels.
        """
        stored = _store(image, segmentation, pixel_sha256, labels_sha256)
        if stored.size_bytes > self.max_bytes:
            return
        with self._lock:
            replaced = self._results.pop(key, None)
            self._size_bytes -= 0 if replaced is None else replaced.size_bytes
            self._results[key] = stored
            self._size_bytes += stored.size_bytes
            while self._size_bytes > self.max_bytes:
                _, oldest = self._results.popitem(last=False)
                self._size_bytes -= oldest.size_bytes
            self._observer.cache_changed(self._size_bytes)


def _store(
    image: DecodedImage, segmentation: Segmentation, pixel_sha256: str, labels_sha256: str
) -> StoredResult:
    findings = {
        field.name: getattr(segmentation, field.name)
        for field in dataclasses.fields(segmentation)
        if field.name not in ("model", "timings_ms")
    }
    if segmentation.count <= np.iinfo(np.uint16).max:
        findings["labels"] = segmentation.labels.astype(np.uint16)
    contours = sum(nucleus.contour_px.nbytes for nucleus in segmentation.nuclei)
    return StoredResult(
        image=dataclasses.replace(image, pixels=np.empty((0, 0, 3), dtype=np.uint8)),
        pixel_sha256=pixel_sha256,
        labels_sha256=labels_sha256,
        findings=findings,
        size_bytes=(
            findings["labels"].nbytes
            + segmentation.probability.nbytes
            + (0 if segmentation.distance is None else segmentation.distance.nbytes)
            + contours
            + _NUCLEUS_BYTES * segmentation.count
            + _ENTRY_BYTES
        ),
    )
