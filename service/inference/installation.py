"""What is installed to run models with: onnxruntime wheels, CUDA libraries, the NVIDIA driver."""

import contextlib
import ctypes
import importlib.metadata
import io
import re
from typing import Final

import onnxruntime

from service.errors import ProviderError

# All of them own the module folder `onnxruntime`.
_DISTRIBUTIONS: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-training",
    "onnxruntime-rocm",
)
_CUDA_13_SINCE: Final = (1, 27)  # onnxruntime-gpu; its releases before were built for CUDA 12
_DRIVER: Final = "libcuda.so.1"
# `enum CUdevice_attribute` of cuda.h.
_COMPUTE_CAPABILITY_MAJOR: Final = 75
_COMPUTE_CAPABILITY_MINOR: Final = 76


def installed_distributions() -> list[str]:
    """Return the installed onnxruntime distributions, each with its version."""
    installed = []
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed.append(f"{name} {importlib.metadata.version(name)}")
    return installed


def check_distributions() -> None:
    """Refuse an environment in which onnxruntime wheels overwrite each other.

    Raises:
        ProviderError: More than one distribution owns the module folder `onnxruntime`.
    """
    installed = installed_distributions()
    if len(installed) > 1:
        raise ProviderError(
            f"{' and '.join(installed)} are installed in one folder and break each other; "
            "make a fresh environment with exactly one of them"
        )


def preload_cuda_libraries() -> None:
    """Load the CUDA and cuDNN libraries of the `nvidia-*` wheels, where there are any."""
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find and raises nothing; `cuda_shortcomings` says it instead.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def cuda_major(onnxruntime_version: str) -> int:
    """Return the major version of CUDA that a release of onnxruntime-gpu was built for."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", onnxruntime_version)[:2])
    return 13 if numbers >= _CUDA_13_SINCE else 12


def cuda_shortcomings(*, tensorrt: bool = False) -> list[str]:
    """Name what CUDA or TensorRT would need here and does not find.

    Args:
        tensorrt: Look for TensorRT's libraries too.

    Returns:
        One phrase for each missing part; empty where everything loads.
    """
    major = cuda_major(onnxruntime.__version__)
    wanted = {
        f"libcudart.so.{major}": f"the CUDA {major} runtime",
        f"libcublasLt.so.{major}": f"cuBLAS of CUDA {major}",
        "libcudnn.so.9": "cuDNN 9",
    }
    if tensorrt:
        wanted["libnvinfer.so.10"] = "TensorRT 10"
    preload_cuda_libraries()
    missing = [f"{what} ({name})" for name, what in wanted.items() if _load(name) is None]
    version = driver_cuda_version()
    if version is None:
        missing.insert(0, f"the NVIDIA driver ({_DRIVER})")
    elif version[0] < major:
        missing.insert(
            0,
            f"a newer NVIDIA driver: this one is for CUDA {version[0]}.{version[1]}, "
            f"onnxruntime {onnxruntime.__version__} for CUDA {major}",
        )
    return missing


def driver_cuda_version() -> tuple[int, int] | None:
    """Return the newest CUDA that the NVIDIA driver runs, None where there is no driver."""
    driver = _load(_DRIVER)
    version = ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def compute_capability(device_id: int) -> tuple[int, int] | None:
    """Return the compute capability of an NVIDIA GPU, None where there is none."""
    driver = _load(_DRIVER)
    if driver is None or driver.cuInit(0) != 0:
        return None
    device, value = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGet(ctypes.byref(device), device_id) != 0:
        return None
    numbers = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
        numbers.append(value.value)
    return numbers[0], numbers[1]


def _load(library: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None
