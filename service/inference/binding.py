"""Runs on a GPU with buffers that are bound once for each shape and used again."""

import threading
from collections import OrderedDict
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.inference.contract import INPUT_NAME, OUTPUT_NAME

# The batcher sends a small fixed set of shapes; others come and go without filling the memory.
_MOST_SHAPES: Final = 16


class BoundRunner:
    """Runs a session through onnxruntime's IO binding. Safe to call from several threads.

    Without binding each run allocates input and output on the device anew, and a copy to the host
    through pageable memory is made of either.
    """

    def __init__(self, session: Any, channels: int, *, device: str, device_id: int) -> None:
        """Take a session.

        Args:
            session: The `onnxruntime.InferenceSession`.
            channels: Number of maps.
            device: onnxruntime's word for where the buffers lie: `cuda` or `cpu`.
            device_id: Number of the device.
        """
        self._session = session
        self._channels = channels
        self._device = device
        self._device_id = device_id
        self._bound: OrderedDict[tuple[int, ...], tuple[Any, Any, Any]] = OrderedDict()
        # The buffers of a shape serve one run at a time, and so does the device.
        self._lock = threading.Lock()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes (N, H, W, 3) whose buffers are kept, the least recently used first."""
        return list(self._bound)

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run tiles of shape (N, H, W, 3), uint8; return maps of shape (N, H, W, C), uint8."""
        with self._lock:
            binding, given, made = self._buffers(tiles.shape)
            given.update_inplace(np.ascontiguousarray(tiles))
            self._session.run_with_iobinding(binding)
            maps: NDArray[np.uint8] = made.numpy()
            # On the CPU `numpy()` is a view of the buffer that the next run overwrites.
            return maps.copy() if self._device == "cpu" else maps

    def _buffers(self, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """Return binding, input and output of a shape."""
        kept = self._bound.get(shape)
        if kept is not None:
            self._bound.move_to_end(shape)
            return kept
        allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        given = allocate(list(shape), np.uint8, self._device, self._device_id)
        made = allocate([*shape[:3], self._channels], np.uint8, self._device, self._device_id)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(INPUT_NAME, given)
        binding.bind_ortvalue_output(OUTPUT_NAME, made)
        self._bound[shape] = binding, given, made
        if len(self._bound) > _MOST_SHAPES:
            self._bound.popitem(last=False)
        return binding, given, made
