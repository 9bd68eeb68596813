"""Memory that is free now: of the machine, and of a GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

READ_INTERVAL_S: Final = 1.0  # asking a GPU more often would cost steps


def memory_available() -> int:
    """Bytes of main memory that a new allocation may take; 0: unknown."""
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def cuda_memory_free(device: str) -> int:
    """Bytes free on the GPU, device-wide. Model thread only."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def out_of_memory(error: BaseException) -> bool:
    """Whether a device had no more to give."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)


class FreeMemory:
    """Of one device. A GPU is asked by the model thread alone, others hear what it last said."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._bytes = 0
        self._read_s = 0.0

    def read(self) -> None:
        """Model thread only."""
        now_s = time.monotonic()
        if self._device != "cpu" and now_s - self._read_s > READ_INTERVAL_S:
            self._read_s = now_s
            self._bytes = cuda_memory_free(self._device)

    @property
    def bytes(self) -> int:
        """0: unknown."""
        return memory_available() if self._device == "cpu" else self._bytes
