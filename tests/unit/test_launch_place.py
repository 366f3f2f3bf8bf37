"""Which process this is: torchrun's variables, else Slurm's, else the only one."""

import os
import socket
import stat
from pathlib import Path

import pytest

from distrib.lifecycle.launch import first_node, interface, ranks, reaches_main, tasks_of_nodes
from distrib.settings import SettingsError

TASK = {
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_ID": "2",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[03-04,9]",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": ""},
        {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        TASK | {"RANK": "0", "WORLD_SIZE": "2"},  # torchrun in each task
        {"SLURM_NTASKS": "4", "RANK": "0", "WORLD_SIZE": "4"},  # torchrun in an allocation
    ],
)
def test_a_place_that_a_launcher_has_told_or_nobody_needs_is_left_alone(environment: dict[str, str]) -> None:
    assert ranks(environment) == {}


def test_a_task_of_srun_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no scontrol: the node's own name does
    assert ranks(TASK) == {
        "RANK": "3",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": str(20_000 + 2345 + 202),
    }
    told = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert ranks(TASK | told).items() >= told.items()
    assert ranks(TASK | {"SLURM_NODEID": "2"})["LOCAL_WORLD_SIZE"] == "1"


def test_slurm_tells_where_a_node_is_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$*" = "--oneliner show node gpu03" ] && echo "NodeName=gpu03 NodeAddr=10.1.2.3 X=1"\n'
    )
    scontrol.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ranks(TASK)["MASTER_ADDR"] == "10.1.2.3"
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    assert ranks(TASK)["MASTER_ADDR"] == "gpu03"


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "4"},  # in the shell of salloc, or of a batch job
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"},  # an interactive step
    ],
)
def test_an_allocation_of_several_tasks_that_nobody_started_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"set aside 4 tasks.*put `srun` before.*srun --ntasks=1"):
        ranks(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[1-2]", "node1"),
        ("gpu[03-07,9],login", "gpu03"),
        ("rack[2-3]gpu[08-09]", "rack2gpu08"),
        ("a-b[12,14-16]", "a-b12"),
    ],
)
def test_the_first_of_a_list_of_nodes(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(("text", "tasks"), [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,2(x2)", [1, 2, 2])])
def test_tasks_of_each_node(text: str, tasks: list[int]) -> None:
    assert tasks_of_nodes(text) == tasks


def test_gloo_takes_the_interface_that_leads_to_rank_0() -> None:
    several = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    assert interface(several) in ("lo", "lo0")
    assert interface(several | {"GLOO_SOCKET_IFNAME": "ib0"}) is None
    assert interface(several | {"LOCAL_WORLD_SIZE": "4"}) is None
    assert interface({}) is None
    assert interface(several | {"MASTER_ADDR": "no such host"}) is None


def test_rank_0_is_reached_as_long_as_somebody_listens() -> None:
    assert reaches_main({})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
        assert reaches_main(where)
    assert not reaches_main(where)
