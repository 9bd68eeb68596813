"""Devices: chosen honestly, and nothing that the user set is overridden."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from llama_gossip.engine import device as devices
from llama_gossip.engine.loading import suitable_dtype
from llama_gossip.errors import UsageError
from llama_gossip.protocol.messages import NumericsClass


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
def test_a_gpu_that_was_asked_for_and_is_missing_is_a_loud_note() -> None:
    placement = devices.place("cuda:1")
    assert placement.device == "cpu"
    assert "CUDA WAS ASKED FOR (cuda:1)" in placement.notes[0]
    assert "running on the CPU" in placement.notes[0]


def test_why_a_gpu_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.place("cuda:2").notes == (
        "CUDA WAS ASKED FOR (cuda:2) BUT torch sees 2 such devices, numbered from 0: running on the CPU",
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no such device (no driver" in devices.place("cuda").notes[0]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert devices.place("cuda").notes == (
        "CUDA WAS ASKED FOR (cuda) BUT this torch is built without CUDA: running on the CPU",
    )


def test_the_model_thread_computes_where_it_was_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    entered: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", entered.append)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        devices.enter("cpu", None)
        assert (entered, torch.get_float32_matmul_precision()) == ([], "high")
        devices.enter("cuda:1", None)
        assert (entered, torch.get_float32_matmul_precision()) == (["cuda:1"], "highest")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("no_cuda")
def test_a_gpu_that_the_machine_has_but_torch_cannot_use_is_a_loud_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "NVIDIA_SIGNS", (os.devnull,))
    assert "NVIDIA GPU BUT torch cannot use it" in devices.place(None).notes[0]
    monkeypatch.setattr(devices, "NVIDIA_SIGNS", ("/no/such/sign",))
    assert devices.place(None).notes == ()


def test_the_cpu_when_asked_for_is_no_complaint() -> None:
    placement = devices.place("cpu")
    assert (placement.device, placement.notes) == ("cpu", ())
    assert placement.label.startswith("cpu ")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "cuda:-1", "mps", ""])
def test_an_unknown_device_is_a_usage_error(asked: str) -> None:
    with pytest.raises(UsageError) as caught:
        devices.place(asked)
    assert "cpu, cuda or cuda:N" in caught.value.hint


def test_fp32_is_called_fp32_and_anything_else_fast() -> None:
    fp32, fp32_class = devices.numerics("fp32", "cpu", "q4_1")
    bf16, bf16_class = devices.numerics("bf16", "cpu", "q4_1")
    assert (fp32, fp32_class) == ("s1-fp32-cpu-q4_1", NumericsClass.FP32)
    assert bf16_class is NumericsClass.FAST
    assert bf16.startswith("s1-bf16-cpu-q4_1-")
    assert len(bf16) <= 64


def test_a_gpus_steps_are_fast_and_say_what_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert devices.numerics("bf16", "cuda:0", "none", kind="flash-rows") == (
        "s1-bf16-sm90-none-flash-rows",
        NumericsClass.FAST,
    )
    assert devices.numerics("fp32", "cuda:0", "none") == ("s1-fp32-sm90-none", NumericsClass.FAST)


def test_a_gpu_without_bf16_gets_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for capability, stored, expected in (
        ((8, 0), "bf16", "bf16"),
        ((9, 0), "fp32", "bf16"),
        ((9, 0), "fp16", "fp16"),
        ((7, 5), "bf16", "fp16"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        facts = SimpleNamespace(parameters=10, stored_dtype=stored)
        assert suitable_dtype(facts, "cuda:0") == expected  # type: ignore[arg-type]


def test_defaults_of_the_environment_never_override_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"MKL_CBWR": "COMPATIBLE", "OMP_WAIT_POLICY": "ACTIVE"}
    monkeypatch.setattr(os, "environ", dict(environment))
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    devices.prepare_environment()
    assert dict(os.environ) == environment


def test_a_busy_machine_gets_patient_threads_and_a_quiet_one_keeps_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for load, expected in ((1000.0, "PASSIVE"), (0.0, None)):
        monkeypatch.setattr(os, "environ", {})
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        devices.prepare_environment()
        assert os.environ.get("OMP_WAIT_POLICY") == expected


def test_nothing_is_set_once_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setattr(os, "environ", {})
    devices.prepare_environment()
    assert dict(os.environ) == {}
