"""Memory that is free now: of the machine, and of a GPU."""

from __future__ import annotations

from pathlib import Path


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
