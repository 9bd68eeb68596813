"""Devices: chosen honestly, and nothing that the user set is overridden."""

from __future__ import annotations

import os
import sys

import pytest

from llama_gossip.engine import device as devices
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
