import os

import pytest
import torch

from distrib.lifecycle import processes
from distrib.lifecycle.processes import (
    check_gpus,
    check_launcher,
    check_world,
    choose_device,
    choose_kernels,
    choose_precision,
)
from distrib.settings import Compute, SettingsError


@pytest.mark.parametrize(
    ("wanted", "device", "told", "expected"),
    [
        ("fp32", "cpu", "bf16", "fp32"),
        ("bf16", "cpu", None, "bf16"),
        ("fp16", "cuda", "no", "fp16"),
        ("auto", "cpu", "no", "fp32"),
        ("auto", "cpu", "bf16", "bf16"),
        ("auto", "cuda", "fp16", "fp16"),
    ],
)
def test_precision_is_what_was_asked_for_or_what_the_launcher_was_told(
    wanted: str, device: str, told: str | None, expected: str
) -> None:
    environment = {} if told is None else {"ACCELERATE_MIXED_PRECISION": told}
    assert choose_precision(wanted, device, environment) == expected


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
@pytest.mark.parametrize("environment", [{}, {"ACCELERATE_MIXED_PRECISION": ""}])
def test_untold_precision_follows_the_device(
    monkeypatch: pytest.MonkeyPatch,
    *,
    fast: bool,
    expected: str,
    environment: dict[str, str],
) -> None:
    monkeypatch.setattr(processes, "fast_at_bf16", lambda device: fast and device == "cuda")
    assert choose_precision("auto", "cuda", environment) == expected
    assert choose_precision("auto", "cpu", environment) == "fp32"


@pytest.mark.parametrize("names", [["avx512_bf16"], ["amx_bf16"], ["arm_bf16"]])
def test_a_cpu_is_fast_at_bf16_if_it_has_instructions_for_it(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
    assert processes.fast_at_bf16("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, False))
    assert not processes.fast_at_bf16("cpu")
    assert not processes.fast_at_bf16("mps")


@pytest.mark.parametrize(("wanted", "told"), [("fp16", None), ("auto", "fp16")])
def test_fp16_on_a_cpu_is_refused(wanted: str, told: str | None) -> None:
    environment = {} if told is None else {"ACCELERATE_MIXED_PRECISION": told}
    with pytest.raises(SettingsError, match="--precision fp16 needs a GPU"):
        choose_precision(wanted, "cpu", environment)


def test_a_precision_that_only_the_launcher_knows_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"fp8.*--precision bf16"):
        choose_precision("auto", "cuda", {"ACCELERATE_MIXED_PRECISION": "fp8"})


def test_remainders_of_gradients_do_not_go_with_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "choose_precision", lambda *_: "fp16")
    with pytest.raises(SettingsError, match="--comm powersgd does not go with fp16"):
        processes.start(Compute(comm="powersgd"))


def test_a_device_that_is_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto", {}) == "cpu"
    assert choose_device("cpu", {}) == "cpu"
    with pytest.raises(SettingsError, match="--device cuda"):
        choose_device("cuda", {})
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto", {}) == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto", {}) == "cuda"


def test_a_launcher_that_was_told_to_use_the_cpu_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto", {}) == "cuda"
    assert choose_device("auto", {"ACCELERATE_USE_CPU": "true"}) == "cpu"
    assert choose_device("auto", {"ACCELERATE_USE_CPU": "False"}) == "cuda"
    with pytest.raises(SettingsError, match="ACCELERATE_USE_CPU"):
        choose_device("cuda", {"ACCELERATE_USE_CPU": "true"})


@pytest.mark.parametrize(
    ("environment", "count"), [({}, 1), ({"WORLD_SIZE": "1"}, 1), ({"WORLD_SIZE": ""}, 1), ({"WORLD_SIZE": "4"}, 4)]
)
def test_a_world_that_is_whole_is_taken(environment: dict[str, str], count: int) -> None:
    check_world(environment, count)


@pytest.mark.parametrize(
    ("environment", "count", "message"),
    [
        ({"WORLD_SIZE": "4"}, 1, "4 processes .* each would train alone.*torchrun"),
        ({"WORLD_SIZE": "4"}, 2, "4 processes .* group of 2"),
        ({}, 2, "1 processes .* group of 2"),
    ],
)
def test_a_world_in_parts_is_refused(environment: dict[str, str], count: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_world(environment, count)


@pytest.mark.parametrize(
    ("name", "told", "instead"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--micro-batch"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--compile default"),
        ("ACCELERATE_USE_FSDP", "true", "the whole network"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "the whole network"),
    ],
)
def test_what_accelerate_would_do_beside_the_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, told: str, instead: str
) -> None:
    monkeypatch.setenv(name, told)
    with pytest.raises(SettingsError, match=f"{name}={told}, .*here .*{instead}"):
        processes.start(Compute(device="cpu"))


def test_what_a_launcher_says_by_default_is_taken() -> None:
    said = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_DYNAMO_BACKEND": "no"}
    check_launcher({})
    check_launcher(said | {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_CPU": "True"})


def test_processes_that_see_but_their_own_gpu_are_refused() -> None:
    check_gpus({}, 1)
    check_gpus({"LOCAL_WORLD_SIZE": "8"}, 8)
    with pytest.raises(SettingsError, match=r"8 processes on a machine see 1 GPU.*--gres=gpu:N"):
        check_gpus({"LOCAL_WORLD_SIZE": "8"}, 1)


@pytest.mark.parametrize("own", [None, "Ring"])
def test_gpus_do_not_add_in_switches_unless_told(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    monkeypatch.setenv("NCCL_ALGO", own or "")
    if own is None:
        monkeypatch.delenv("NCCL_ALGO")
    choose_kernels(Compute(), "cuda")
    assert os.environ["NCCL_ALGO"] == (own or "^NVLS")
