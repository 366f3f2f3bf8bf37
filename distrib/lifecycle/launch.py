"""Which process this is, among which: what torchrun says, else what Slurm says, else it is the only one."""

import fcntl
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from distrib.settings import SettingsError

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of a network interface
LAUNCHED = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_"),
    *("ACCELERATE_", "SLURM_", "PMI"),
)
"""How the names of variables begin with which launchers tell a process that it is one of several."""
PORTS = (20_000, 10_000)  # the first, and how many: below those that Linux gives to outgoing connections


def ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of torchrun that are yet to be set for Accelerate to find this process's place.

    None if a launcher has set them, or if this process is the only one. Else it is a task of Slurm's `srun`, as many as
    there are processes. Rank 0 is on the first node, where all meet, at a port that follows from job and step.

    Raises:
        SettingsError: Slurm set aside several tasks, but this process is none of them; says how to start them.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or "1"
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return {}
    if tasks == "1" and (environment.get("SLURM_NTASKS") or "1") != "1":
        raise SettingsError(
            f"Slurm has set aside {environment['SLURM_NTASKS']} tasks, but this one process was started for none of "
            "them: put `srun` before the command to start them all, or `srun --ntasks=1` to train in one process"
        )
    if tasks == "1":
        return {}
    node, (first, count) = int(environment["SLURM_NODEID"]), PORTS
    port = first + (int(environment["SLURM_JOB_ID"]) + 101 * int(environment["SLURM_STEP_ID"])) % count
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"])[node]),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or address_of(first_node(environment["SLURM_STEP_NODELIST"])),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(port),
    }


def apart(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that a rank starts and that is itself no rank: without what launchers have set."""
    return {name: value for name, value in environment.items() if not name.startswith(LAUNCHED)}


def tasks_of_nodes(text: str) -> list[int]:
    """Number of tasks of each node, from Slurm's short form: ``2(x3),1`` is 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]


def first_node(nodes: str) -> str:
    """The first name of Slurm's list of nodes: ``gpu[03-07,9],login`` begins with gpu03."""
    first = re.match(r"(?:[^,\[]|\[[^]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", first[0] if first else nodes)


def address_of(node: str) -> str:
    """Where a node is reached, as Slurm itself reaches it; in a container without Slurm's commands, its name."""
    scontrol = shutil.which("scontrol")
    if scontrol is not None:
        with suppress(OSError, subprocess.SubprocessError):
            words = [scontrol, "--oneliner", "show", "node", node]
            told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout  # noqa: S603
            if found := re.search(r"\bNodeAddr=(\S+)", told):
                return found[1]
    return node


def interface(environment: Mapping[str, str]) -> str | None:
    """The network interface that leads to rank 0, for gloo; None if it is told already, or all are on this machine.

    Left to itself, gloo takes the address to which this machine's name resolves: on many a machine 127.0.1.1.
    """
    master, local = environment.get("MASTER_ADDR"), environment.get("LOCAL_WORLD_SIZE")
    if not master or "GLOO_SOCKET_IFNAME" in environment or environment.get("WORLD_SIZE") == local:
        return None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((master, 9))  # sends nothing: the system only chooses the way
            mine = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                with suppress(OSError):  # it has no such address
                    told = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                    if socket.inet_ntoa(told[20:24]) == mine:
                        return name
    except OSError:
        return None  # an address of IPv6, or not Linux: gloo's own choice
    return None


def reaches_main(environment: Mapping[str, str]) -> bool:
    """Whether the place where all processes met, on the machine of rank 0, answers within seconds."""
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT", "")
    if not address or not port.isdecimal():
        return True
    try:
        socket.create_connection((address, int(port)), timeout=3).close()
    except OSError:
        return False
    return True
