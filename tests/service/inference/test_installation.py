"""What is missing for CUDA is named."""

import onnxruntime
import pytest

from service.inference import installation
from service.inference.installation import (
    cuda_major,
    cuda_shortcomings,
    driver_cuda_version,
    installed_distributions,
)


def test_the_installed_wheel_is_found() -> None:
    assert len(installed_distributions()) == 1
    assert onnxruntime.__version__ in installed_distributions()[0]


@pytest.mark.parametrize(("version", "major"), [("1.26.2", 12), ("1.27.0", 13), ("1.31.1", 13)])
def test_each_release_wants_its_cuda(version: str, major: int) -> None:
    assert cuda_major(version) == major


class Driver:
    """An NVIDIA driver for CUDA 12.4, without a GPU."""

    @staticmethod
    def cuDriverGetVersion(version: object) -> int:  # noqa: N802  the library's name
        version._obj.value = 12040  # type: ignore[attr-defined]  # what ctypes.byref points to
        return 0

    @staticmethod
    def cuInit(_: int) -> int:  # noqa: N802  the library's name
        return 100  # CUDA_ERROR_NO_DEVICE


def test_every_missing_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    monkeypatch.setattr(installation, "preload_cuda_libraries", lambda: None)
    monkeypatch.setattr(installation, "_load", lambda _: None)
    missing = cuda_shortcomings(tensorrt=True)
    assert missing[0] == "the NVIDIA driver (libcuda.so.1)"
    for part in ("libcudart.so.13", "libcublasLt.so.13", "libcudnn.so.9", "libnvinfer.so.10"):
        assert any(part in item for item in missing)
    assert not any("nvinfer" in item for item in cuda_shortcomings())


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    monkeypatch.setattr(installation, "preload_cuda_libraries", lambda: None)
    monkeypatch.setattr(installation, "_load", lambda _: Driver())
    assert driver_cuda_version() == (12, 4)
    (missing,) = cuda_shortcomings()
    assert "newer NVIDIA driver: this one is for CUDA 12.4" in missing
    assert installation.compute_capability(0) is None
