"""Several machines without Slurm: launch/multi_node.sh, on one host and between hosts of their own names and addresses.

The hosts are network namespaces with a cable (a veth pair) between them, which can be pulled.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress

import pytest

from tests.launching import (
    ROOT,
    TIMEOUT,
    environment,
    follow,
    hashes,
    journal,
    pids,
    train,
    updates,
    wait_until_gone,
)

SCRIPT = "launch/multi_node.sh"
FLAGS = ("--config", "configs/quickstart.yaml", "--model", "resnet18", "--width", "8", "--wandb=off", "--no-report")
FLAGS = (*FLAGS, "--log-every", "1", "--save-every", "10", "--epochs", "4", "--name", "nodes")
NODES = {"node-a": "10.77.0.1", "node-b": "10.77.0.2"}


class Hosts:
    """Two hosts with a cable between them."""

    def __init__(self):
        self.spaces = {name: f"distrib-{os.getpid()}-{name}" for name in NODES}
        self.started = []

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def lay(self):
        first, second = self.spaces.values()
        for space in self.spaces.values():
            self.ip("netns", "add", space)
        self.ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for name, space in self.spaces.items():
            self.ip("-n", space, "addr", "add", f"{NODES[name]}/24", "dev", "cable")
            for device in ("lo", "cable"):
                self.ip("-n", space, "link", "set", device, "up")

    def pull(self):
        self.ip("-n", self.spaces["node-b"], "link", "set", "cable", "down")

    def plug(self):
        self.ip("-n", self.spaces["node-b"], "link", "set", "cable", "up")

    def start(self, name, *flags):
        """Start the script on a host that bears its own name."""
        inside = ["ip", "netns", "exec", self.spaces[name], "unshare", "--uts", "bash", "-c"]
        words = [*inside, 'hostname "$0"; exec "$@"', name, SCRIPT, *map(str, flags)]
        where = environment(NODES="2", MASTER_ADDR=NODES["node-a"], PROCESSES_PER_NODE="1", CUDA_VISIBLE_DEVICES="")
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(words, cwd=ROOT, env=where, start_new_session=True, **quiet)
        self.started.append(process)
        return process

    def start_both(self, *flags):
        return [self.start(name, *flags) for name in NODES]

    def remove(self):
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for space in self.spaces.values():
            left = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False).stdout
            for pid in left.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


@pytest.fixture
def hosts():
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("hosts of their own need root and the command ip (iproute2)")
    found = Hosts()
    try:
        found.lay()
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    train(*FLAGS, "--out", out, world=2)
    return hashes(out / "nodes")


def ended(processes, expect):
    """Wait for the agents; what they printed."""
    told = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    assert [process.returncode for process in processes] == expect, "\n".join(told)
    return told


def hosts_of(folder):
    return {journal_host(path) for path in (folder / "heartbeats").glob("rank-*.json")}


def journal_host(path):
    return re.search(r'"host": "([^"]*)"', path.read_text())[1]


def test_two_agents_on_one_host_form_one_world(tmp_path, undisturbed):
    with socket.socket() as somewhere:
        somewhere.bind(("127.0.0.1", 0))
        port = str(somewhere.getsockname()[1])
    where = {"NODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PROCESSES_PER_NODE": "1"}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    words = [SCRIPT, *FLAGS, "--out", str(tmp_path)]
    agents = [subprocess.Popen(words, cwd=ROOT, env=environment(**where), **quiet) for _ in range(2)]
    ended(agents, [0, 0])
    assert journal(tmp_path / "nodes")[0]["world_size"] == 2
    assert hashes(tmp_path / "nodes") == undisturbed


@pytest.mark.slow
def test_two_hosts_train_as_one_world_and_outlive_ten_seconds_without_a_cable(tmp_path, undisturbed, hosts):
    agents = hosts.start_both(*FLAGS, "--out", tmp_path)
    follow(agents[0], tmp_path / "nodes", lambda record: record.get("update", 0) >= 20)
    hosts.pull()
    time.sleep(10)  # not to wait for something: this is what happens
    assert len(updates(tmp_path / "nodes")) < 88
    assert all(process.poll() is None for process in agents)
    hosts.plug()
    ended(agents, [0, 0])
    assert [record["update"] for record in updates(tmp_path / "nodes")] == list(range(1, 89))
    assert hosts_of(tmp_path / "nodes") == set(NODES)
    assert hashes(tmp_path / "nodes") == undisturbed


@pytest.mark.slow
def test_a_host_that_is_lost_for_good_is_named_and_the_run_goes_on_when_it_is_back(tmp_path, hosts):
    # The cable is pulled in the second epoch, far from a save: each phase was passed once, and has no more excuses.
    flags = (*FLAGS, "--batch-size", 16, "--epochs", 2, "--save-every", 1000, "--hang-timeout", 20)
    train(*flags, "--out", tmp_path / "undisturbed", world=2)
    agents = hosts.start_both(*flags, "--out", tmp_path)
    follow(agents[0], tmp_path / "nodes", lambda record: record.get("update", 0) >= 95)
    hosts.pull()
    ranks = pids(tmp_path / "nodes")
    places = {path.name: journal_host(path) for path in (tmp_path / "nodes" / "heartbeats").glob("rank-*.json")}
    assert set(ranks) == {0, 1}
    wait_until_gone(ranks.values(), seconds=180)
    # torchrun on a host that is cut off takes minutes to give up, and heeds no other signal meanwhile.
    for process in agents:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    told = "".join(process.communicate(timeout=TIMEOUT)[0] for process in agents)
    assert told.count(f"error: the run hangs: rank 1 on {places['rank-1.json']} does not reach rank 0") == 1, told
    hosts.plug()
    ended(hosts.start_both(*flags, "--out", tmp_path), [0, 0])
    resumed = next(record for record in journal(tmp_path / "nodes") if record.get("event") == "resume")
    assert resumed["epoch"] == 1
    assert [record["update"] for record in updates(tmp_path / "nodes")] == list(range(1, resumed["update"] * 2 + 1))
    assert hashes(tmp_path / "nodes") == hashes(tmp_path / "undisturbed" / "nodes")
