"""The scripts and files of launch/, called as a user calls them."""

import json
import os
import shlex
import signal
import socket
import subprocess
from contextlib import suppress

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests.launching import ROOT, TIMEOUT, environment, follow, hashes, journal, pids, run

LAUNCH = ROOT / "launch"
COMMANDS = {
    "debug.sh": ["launch/debug.sh"],
    "cpu.sh": ["launch/cpu.sh", "2"],
    "multi_gpu.sh": ["launch/multi_gpu.sh"],
    "multi_node.sh": ["launch/multi_node.sh"],
}
each_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
QUICK = ["--data", "digits", "--model", "simplecnn", "--width", "8", "--wandb=off", "--no-report", "--name", "quick"]


def quick(out, epochs=1):
    return [*QUICK, "--epochs", str(epochs), "--out", str(out)]


def world_size(out):
    return json.loads((out / "quick" / "environment.json").read_text())["world_size"]


def free_port():
    with socket.socket() as somewhere:
        somewhere.bind(("127.0.0.1", 0))
        return str(somewhere.getsockname()[1])


def test_every_script_is_among_these():
    assert {path.name for path in LAUNCH.glob("*.sh")} == {*COMMANDS, "prepare.sh"}


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    run(["shellcheck", str(path)])


@each_command
def test_a_typo_ends_it_with_one_message_before_anything_starts(command):
    done = run([*command, "--modell", "resnet18"], expect=2)
    assert done.stderr.count("Unrecognized options:") == 1
    assert "--model" in done.stderr
    assert "running:" not in done.stderr
    assert done.stdout == ""


@each_command
def test_a_setting_that_cannot_be_ends_it_with_one_message(command):
    done = run([*command, "--model", "resnet19"], expect=2)
    assert done.stderr.count("error:") == 1
    assert "running:" not in done.stderr


@each_command
def test_help_says_how_to_call_it_and_shows_the_flags(command):
    done = run([command[0], "--help"])
    assert f"{command[0]} " in done.stdout
    assert "--batch-size" in done.stdout
    assert done.stderr == ""


def test_debug_trains_in_one_process_from_any_folder(tmp_path):
    script = shlex.join([str(LAUNCH / "debug.sh"), *quick(tmp_path)])
    done = run(["bash", "-c", f"cd {shlex.quote(str(tmp_path))} && {script}"])
    assert done.stderr.startswith("running: python distrib/train.py")
    assert world_size(tmp_path) == 1


def test_cpu_trains_in_as_many_processes_as_told(tmp_path):
    done = run([*COMMANDS["cpu.sh"], *quick(tmp_path)])
    assert done.stderr.count("running:") == 1
    assert world_size(tmp_path) == 2


@pytest.mark.parametrize("count", [[], ["two"], ["0"], ["--data", "digits"]])
def test_cpu_wants_a_number_of_processes(count):
    done = run(["launch/cpu.sh", *count], expect=2)
    assert "launch/cpu.sh N [FLAGS]" in done.stderr


def test_a_signal_passes_through_the_script_and_the_run_is_saved(tmp_path):
    process = subprocess.Popen(
        [*COMMANDS["cpu.sh"], *quick(tmp_path, epochs=1000)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        follow(process, tmp_path / "quick", lambda record: record["kind"] == "epoch")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    last = journal(tmp_path / "quick")[-1]
    assert last["event"] == "stop"
    assert last["exit_code"] == 75
    assert (tmp_path / "quick" / "checkpoints" / f"update-{last['update']:09}").is_dir()


@pytest.mark.slow
def test_torchrun_starts_a_run_again_that_has_lost_a_process(tmp_path):
    flags = ["--data", "synthetic", "--train-images", "1024", "--test-images", "64", "--model", "simplecnn"]
    flags += ["--width", "8", "--epochs", "3", "--batch-size", "16", "--save-every", "10", "--log-every", "1"]
    flags += ["--wandb=off", "--no-report", "--name", "quick", "--out"]
    run([*COMMANDS["cpu.sh"], *flags, str(tmp_path / "undisturbed")])
    process = subprocess.Popen(
        [*COMMANDS["cpu.sh"], *flags, str(tmp_path)],
        cwd=ROOT,
        env=environment(PET_MAX_RESTARTS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    follow(process, tmp_path / "quick", lambda record: record.get("update", 0) >= 30)
    ranks = pids(tmp_path / "quick")
    assert set(ranks) == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    told, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, told
    records = journal(tmp_path / "quick")
    (resumed,) = (record for record in records if record.get("event") == "resume")
    assert resumed["world_size"] == 2
    assert resumed["update"] >= 20
    assert [record["update"] for record in records if record["kind"] == "update"] == list(range(1, 193))
    assert hashes(tmp_path / "quick") == hashes(tmp_path / "undisturbed" / "quick")


def test_multi_gpu_says_that_there_is_no_gpu():
    done = run(COMMANDS["multi_gpu.sh"], expect=2, **NO_GPU)
    assert done.stderr.count("error:") == 1
    assert "launch/debug.sh" in done.stderr
    assert "launch/cpu.sh" in done.stderr


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "set NODES MASTER_ADDR in"),
        ({"NODES": "2"}, "set MASTER_ADDR in"),
        ({"MASTER_ADDR": "node1"}, "set NODES in"),
    ],
)
def test_multi_node_names_what_is_missing(given, missing):
    done = run(COMMANDS["multi_node.sh"], expect=2, **given)
    assert missing in done.stderr


def test_multi_node_trains_on_one_node(tmp_path):
    where = {"NODES": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "PROCESSES_PER_NODE": "2"}
    run([*COMMANDS["multi_node.sh"], *quick(tmp_path)], **where, **NO_GPU)
    assert world_size(tmp_path) == 2


@pytest.mark.parametrize(
    ("name", "machines", "processes", "precision"),
    [("one_gpu", 1, 1, "bf16"), ("multi_gpu", 1, 8, "bf16"), ("multi_node", 2, 16, "bf16"), ("cpu", 1, 1, "no")],
)
def test_accelerate_takes_its_files(name, machines, processes, precision):
    config = load_config_from_file(str(LAUNCH / "accelerate" / f"{name}.yaml"))
    assert (config.num_machines, config.num_processes, config.mixed_precision) == (machines, processes, precision)
    assert config.use_cpu == (name == "cpu")


def test_accelerate_launch_trains_on_the_cpu(tmp_path):
    start = ["accelerate", "launch", "--config_file", "launch/accelerate/cpu.yaml", "distrib/train.py"]
    run([*start, *quick(tmp_path)], **NO_GPU)
    assert world_size(tmp_path) == 1
