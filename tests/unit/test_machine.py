import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
import torch

from distrib.insight import machine
from distrib.insight.machine import NOTE, OK, alone, launches, plural, ports, precisions, rows, threads, unreachable
from distrib.settings import Compute, Optimization, Settings, SettingsError


def test_versions_and_devices_are_told() -> None:
    text = "\n".join(f"{name} {told}" for name, told in rows())
    assert f"torch {torch.__version__}" in text
    assert f"{machine.cores()} for this process" in text


def test_equal_gpus_are_told_together(monkeypatch) -> None:
    gpus = [("NVIDIA H200", 140), ("NVIDIA H200", 140), ("NVIDIA T4", 15)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    made = [SimpleNamespace(name=name, total_memory=size * 2**30) for name, size in gpus]
    monkeypatch.setattr(torch.cuda, "get_device_properties", made.__getitem__)
    assert machine.gpus_text() == "2 x NVIDIA H200 (140.0 GiB), 1 x NVIDIA T4 (15.0 GiB)"


@pytest.mark.parametrize("driver", [True, False])
def test_a_driver_without_a_gpu_that_pytorch_can_use_is_told(monkeypatch, tmp_path, driver) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(machine, "DRIVER", tmp_path if driver else tmp_path / "none")
    assert ("older than CUDA 13.2" in machine.gpus_text()) == driver


@pytest.mark.parametrize(
    ("compute", "fast", "level", "expected"),
    [
        (Compute(), True, OK, "cpu in bf16, what --precision auto takes; here bf16 is fast, fp16 needs a GPU"),
        (Compute(), False, OK, "cpu in fp32, what --precision auto takes; here bf16 works, slowly"),
        (Compute(precision="bf16"), False, NOTE, "cpu in bf16, as asked for; here bf16 works, slowly"),
    ],
)
def test_the_precision_that_training_takes_is_told(monkeypatch, compute, fast, level, expected) -> None:
    monkeypatch.setattr(machine, "fast_at_bf16", lambda _: fast)
    monkeypatch.setattr("distrib.lifecycle.processes.fast_at_bf16", lambda _: fast)
    ((found, text),) = precisions(compute, {"ACCELERATE_USE_CPU": "true"})
    assert (found, text[: len(expected)]) == (level, expected)


def test_a_device_that_is_absent_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="--device cuda"):
        precisions(Compute(device="cuda"), {})


def commands(monkeypatch, *, gpus: int, compute: Compute, batch: int = 128, **environment: str) -> dict[str, str]:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(machine, "cores", lambda: 4)
    settings = Settings(compute=compute, optimization=Optimization(batch_size=batch))
    return dict(launches(settings, ["--name", "my run"], environment))


def test_commands_are_those_of_this_machine(monkeypatch) -> None:
    found = commands(monkeypatch, gpus=0, compute=Compute())
    assert found["one process"] == "python distrib/train.py --name 'my run'"
    assert found["2 CPU processes"] == "launch/cpu.sh 2 --name 'my run'"
    assert "it starts one process" in found["but not"]
    assert not any("GPUs" in purpose for purpose in found)
    found = commands(monkeypatch, gpus=8, compute=Compute())
    assert found["all 8 GPUs"] == "launch/multi_gpu.sh --name 'my run'"
    assert "--multi_gpu --num_processes 8 distrib/train.py" in found["the same"]
    assert found["to check several"].startswith("torchrun --standalone --nproc-per-node 8 -m distrib doctor --name")
    assert "but not" not in found
    assert "2 CPU processes" not in commands(monkeypatch, gpus=8, compute=Compute(device="cuda"))
    assert "all 8 GPUs" not in commands(monkeypatch, gpus=8, compute=Compute(device="cpu"))


def test_as_many_cpu_processes_are_named_as_can_share_the_batch(monkeypatch) -> None:
    assert "3 CPU processes" in commands(monkeypatch, gpus=0, compute=Compute(), batch=15)
    prime = commands(monkeypatch, gpus=0, compute=Compute(), batch=7)
    assert not [purpose for purpose in prime if "CPU processes" in purpose]
    alone = Compute(exact=True, virtual_ranks=1)
    assert "2 CPU processes" not in commands(monkeypatch, gpus=0, compute=alone)


def test_a_slurm_job_gets_its_command(monkeypatch) -> None:
    found = commands(monkeypatch, gpus=0, compute=Compute(), SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="3")
    command = found["this Slurm job"]
    assert command.startswith("NODES=3 MASTER_ADDR=$(scontrol show hostnames")
    assert command.endswith("srun --nodes=3 --ntasks-per-node=1 launch/multi_node.sh --name 'my run'")


def test_the_one_process_of_accelerate_launch_on_cpus_is_known() -> None:
    started = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}
    assert alone(started, "cpu")
    assert not alone(started, "cuda")
    assert not alone(started | {"WORLD_SIZE": "1"}, "cpu")  # launch/cpu.sh 1
    assert not alone({}, "cpu")


@pytest.mark.parametrize(
    ("each", "processes", "cores", "level"), [(4, 2, 8, OK), (1, 16, 8, OK), (1, 2, 8, NOTE), (8, 2, 8, NOTE)]
)
def test_threads_that_do_not_fit_the_cores_are_noted(each, processes, cores, level) -> None:
    ((found, text),) = threads(each, processes, cores)
    assert found == level
    assert ("OMP_NUM_THREADS=4" in text) == (level == NOTE)


def test_threads_that_were_asked_for_are_no_fault() -> None:
    ((level, text),) = threads(1, 1, 8, asked=True)
    assert level == OK
    assert text == "1 process of 1 thread on 8 cores, as asked for (--threads, or --exact)"


def test_a_port_in_use_is_noted(monkeypatch) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        ((level, text),) = ports({"MASTER_PORT": str(port)})
        assert level == NOTE
        assert f"in use on this host: {port} (MASTER_PORT)" in text
        monkeypatch.setattr(machine, "PORTS", {port: "accelerate launch"})
        assert ports({})[0][0] == ports({"MASTER_PORT": "many"})[0][0] == NOTE
    assert ports({})[0] == (OK, f"free: {port}")
    assert ports({"MASTER_PORT": "99999"})[0][0] == NOTE  # no port at all


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers with the status that the path names."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, True), (403, True), (502, False), (407, False)])
def test_a_server_is_there_if_it_answers_itself(monkeypatch, server, status, there) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fault = unreachable(f"{server}/{status}")
    assert fault is None if there else fault == f"HTTP status {status}"


def test_a_server_that_is_not_there_or_says_nothing_is_unreachable(monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(machine, "PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert unreachable(address)
    assert "refused" in str(unreachable(address))
    assert unreachable("no address")


def test_nouns_go_with_their_number() -> None:
    assert [plural(1, "core"), plural(2, "core"), plural(1, "process"), plural(2, "process")] == [
        "1 core",
        "2 cores",
        "1 process",
        "2 processes",
    ]
