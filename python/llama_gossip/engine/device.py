"""Devices: which one computes, in what precision, with how many threads, and how that is said honestly.

The law: nothing is promised that is not there (a missing GPU is a loud note), nothing that the user set in
the environment is overridden, and equal numerics ids mean equal arithmetic. torch is imported in functions.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llama_gossip.engine.noise import SAMPLER
from llama_gossip.errors import UsageError
from llama_gossip.protocol.messages import NumericsClass

BUSY_LOAD_PER_CORE: Final = 0.5  # from here on, threads that spin between steps only steal time
NVIDIA_SIGNS: Final = ("/dev/nvidia0", "/proc/driver/nvidia/version")  # a GPU is expected where one exists
GPU_SIGNS: Final = (*NVIDIA_SIGNS, "/dev/dxg", "/dev/kfd")  # without all of these torch finds none
CPU_WORDS: Final = ("AVX512", "AVX2")  # what MKL and ATen call the kernel classes whose results are pinned


@dataclass(frozen=True, slots=True)
class Placement:
    device: str  # as torch takes it
    label: str  # for people
    notes: tuple[str, ...] = ()


def prepare_environment() -> None:
    """Defaults that count only if they are there before torch loads; what the user set stays."""
    if "torch" in sys.modules:
        return
    if os.getloadavg()[0] > BUSY_LOAD_PER_CORE * cpu_count():
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mode = _cpu_mode()
    if mode:  # one code path whatever the alignment: faster here, and the base of exact continuation
        os.environ.setdefault("MKL_CBWR", f"{mode},STRICT")


def _cpu_mode() -> str | None:
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return None
    wanted = {"AVX512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "AVX2": {"avx2"}}
    return next((word for word in CPU_WORDS if wanted[word] <= set(flags)), None)


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def place(asked: str | None) -> Placement:
    """The device for `asked` ("cpu", "cuda", "cuda:1", None: the best). A GPU that is missing is noted."""
    import torch

    if asked is not None and asked != "cpu" and not asked.startswith("cuda"):
        raise UsageError(f"unknown device {asked!r}", hint="cpu, cuda or cuda:N")
    if asked == "cpu":
        return Placement("cpu", cpu_label())
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = _cuda_number(asked)
    if number < available:
        name = torch.cuda.get_device_properties(number).name
        return Placement(f"cuda:{number}", f"cuda:{number} {name}")
    return Placement("cpu", cpu_label(), _cuda_missing(asked, available))


def enter(device: str, threads: int | None) -> None:
    """For the thread that computes on this device, with so many threads of the CPU (None: torch's choice)."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)  # counts for the thread that calls it
    if device != "cpu":
        torch.cuda.set_device(device)  # as well: kernels and graphs go where this points
        torch.set_float32_matmul_precision("highest")  # fp32 is fp32, not TF32


def _cuda_number(asked: str | None) -> int:
    text = (asked or "cuda").removeprefix("cuda").removeprefix(":")
    if text and not text.isdigit():
        raise UsageError(f"unknown device {asked!r}", hint="cpu, cuda or cuda:N")
    return int(text or 0)


def _cuda_missing(asked: str | None, available: int) -> tuple[str, ...]:
    if asked is not None:
        return (f"CUDA WAS ASKED FOR ({asked}) BUT {_cuda_here(available)}: running on the CPU",)
    if any(Path(sign).exists() for sign in NVIDIA_SIGNS):
        return ("THIS MACHINE HAS AN NVIDIA GPU BUT torch cannot use it: running on the CPU",)
    return ()


def _cuda_here(available: int) -> str:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built without CUDA"
    if available:
        return f"torch sees {available} such devices, numbered from 0"
    return "torch sees no such device (no driver, or none is visible)"


def gpu_possible() -> bool:
    """False: only the CPU can compute here, whatever torch has to say."""
    return any(Path(sign).exists() for sign in GPU_SIGNS)


def cpu_label() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"cpu {name}"


def numerics(
    dtype: str, device: str, quantisation: str, exact: str = "", kind: str = ""
) -> tuple[str, NumericsClass]:
    """The id and class of steps in this precision. `exact`: the word of a forward whose logits were seen to
    depend on a row's own ids alone; "": they depend on its company as well. `kind`: of a GPU's step, what
    computes it.

    fp32 held across CPU classes and thread counts in every trial, so its plain id names no kernels; other
    precisions are another arithmetic on every kernel class, and so is what is to be equal to the bit. Of a
    GPU's steps nothing was measured: they are fast.
    """
    import torch

    if device != "cpu":
        sm = "sm" + "".join(map(str, torch.cuda.get_device_capability(device)))
        parts = [SAMPLER, dtype, sm, quantisation, kind]
        return "-".join(part for part in parts if part), NumericsClass.FAST
    parts = [SAMPLER, dtype, "cpu", quantisation]
    if dtype == "fp32" and not exact:
        return "-".join(parts), NumericsClass.FP32
    parts += [torch.backends.cpu.get_cpu_capability(), os.environ.get("MKL_CBWR", "any")]
    if exact:
        parts += [torch.__version__.partition("+")[0], exact]
    return "-".join(parts), NumericsClass.EXACT if exact else NumericsClass.FAST


def pinned_kernels(device: str) -> bool:
    """Whether the environment holds the CPU's kernels to one order of sums: what `exact` stands on."""
    return device == "cpu" and os.environ.get("MKL_CBWR", "").endswith(",STRICT")
