from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distrib.learning.averaging import WeightAverage
from distrib.learning.optimizers import make_optimizer, optimizer_tensors
from distrib.lifecycle import preflight
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.numerics import code_digest
from distrib.lifecycle.preflight import (
    OWN,
    bytes_text,
    check_data,
    check_ranks,
    checkpoint_bytes,
    differences,
    facts_of,
    room,
    room_in,
    who,
    written,
)
from distrib.lifecycle.processes import Processes
from distrib.settings import Compute, Lifecycle, Optimization, Settings, SettingsError
from tests.peers import Solo


def told(*values: object, hosts: str = "abcdefgh") -> list[str]:
    """What is said of a setting that has these values on the ranks, which are on these hosts."""
    return differences(hosts, [{"settings": {"--lr": value}} for value in values])["settings"]


def test_equal_ranks_differ_in_nothing() -> None:
    assert told(0.1, 0.1, 0.1) == []
    assert told(None, None) == []


def test_of_two_ranks_the_first_is_taken_for_right() -> None:
    assert told(0.1, 0.2) == ["rank 1 on host b has --lr 0.2 where rank 0 on host a has 0.1"]


def test_of_several_ranks_the_majority_is_taken_for_right() -> None:
    assert told(0.2, 0.1, 0.1) == ["rank 0 on host a has --lr 0.2 where ranks 1-2 on hosts b, c have 0.1"]
    expected = "ranks 1, 3 on hosts b, d have --lr 0.2 where ranks 0, 2 on hosts a, c have 0.1"
    assert told(0.1, 0.2, 0.1, 0.2) == [expected]


def test_each_value_is_told_with_those_that_have_it() -> None:
    (text,) = told(1, 2, 3, 1)
    assert text.startswith("rank 1 on host b has --lr 2, rank 2 on host c has --lr 3 where ranks 0, 3")


def test_what_only_some_ranks_know_of_is_a_difference() -> None:
    found = differences("ab", [{"data": {"classes[0]": "cat"}}, {"data": {"classes[0]": "cat", "classes[1]": "dog"}}])
    assert found == {"data": ["rank 1 on host b has classes[1] dog where rank 0 on host a has None"]}
    assert differences("ab", [{"data": {"size": 8}}, {}])["data"]  # another version of the code, which says less


def test_long_values_that_differ_late_are_told_apart() -> None:
    (text,) = told("x" * 1000, "x" * 1000 + "y")
    assert len(text) < 300
    first, second = text.split(" where ")
    assert first[-9:-1] != second[-9:-1]  # digests


@pytest.mark.parametrize(
    ("ranks", "hosts", "expected"),
    [
        ([0], ["a"], "rank 0 on host a"),
        ([0, 1, 2, 4, 6, 7], ["a"] * 8, "ranks 0-2, 4, 6-7 on host a"),
        (range(8), list("aabbccdd"), "ranks 0-7 on hosts a, b, c, d"),
        (range(7), list("abcdefg"), "ranks 0-6 on hosts a, b, c, d, e and 2 more"),
    ],
)
def test_ranks_are_named_briefly(ranks, hosts, expected) -> None:
    assert who(ranks, hosts) == expected


class Pretended(Solo):
    """Rank 0, with answers of a rank 1 that is not there."""

    def __init__(self, answer) -> None:
        super().__init__(size=2)
        object.__setattr__(self, "answer", answer)

    def gather(self, item):
        return [item, self.answer(item)]


def test_a_refusal_names_value_host_and_remedy() -> None:
    def other(item):
        return "elsewhere", {"data": item[1]["data"] | {"mean[1]": 0.5}}

    with pytest.raises(SettingsError) as refusal:
        check_data({"mean": (0.1, 0.2)}, Pretended(other))
    text = str(refusal.value)
    assert "rank 1 on host elsewhere has mean[1] 0.5 where rank 0 on host" in text
    assert "has 0.2. Give every host the same copy of the data set" in text
    assert "mean[0]" not in text


def test_a_refusal_does_not_list_a_thousand_differences() -> None:
    def other(_):
        return "elsewhere", {"data": {}}

    with pytest.raises(SettingsError, match="and 995 more") as refusal:
        check_data({"classes": [f"class {number}" for number in range(1000)]}, Pretended(other))
    assert len(str(refusal.value)) < 1000


def test_one_process_agrees_with_itself() -> None:
    alone = SimpleNamespace(size=1)  # nothing else of it is asked for
    assert check_ranks(Settings(), alone) == []
    check_data({"size": 8}, alone)


def test_settings_that_may_differ_are_settings() -> None:
    assert set(Settings().flat()) >= OWN


def test_the_digest_of_code_sees_an_edit_a_name_and_nothing_else(tmp_path) -> None:
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "one.py"
    file.write_text("a = 1\n")
    before = code_digest(tmp_path)
    (tmp_path / "inner" / "one.pyc").write_bytes(b"compiled")
    assert code_digest(tmp_path) == before
    file.write_text("a = 2\n")
    edited = code_digest(tmp_path)
    assert edited != before
    file.rename(tmp_path / "inner" / "two.py")
    assert code_digest(tmp_path) not in (before, edited)


def test_what_proves_a_folder_is_gone_afterwards(tmp_path) -> None:
    with written(tmp_path) as (token, level):
        assert level == 0
        assert (tmp_path / token).read_text() == token
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_proved_by_the_one_above_and_not_made(tmp_path) -> None:
    with written(tmp_path / "a" / "b") as (token, level):
        assert level == 2
        assert (tmp_path / token).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(SettingsError, match=r"cannot write to .*file/runs: Not a directory\. Choose another --out")
    with refused, written(tmp_path / "file" / "runs"):
        pass


def test_an_error_inside_is_not_taken_for_one_of_the_folder(tmp_path) -> None:
    with pytest.raises(OSError, match="mine"), written(tmp_path):
        raise OSError("mine")
    assert list(tmp_path.iterdir()) == []


def test_room_for_exactly_enough_is_room() -> None:
    assert room(Path("/disk"), free=400, checkpoint=100, count=4) is None
    note = room(Path("/disk"), free=399 * 2**20, checkpoint=100 * 2**20, count=4)
    assert note is not None
    assert "/disk has 399.0 MiB left, but up to 4 checkpoints of 100.0 MiB need 400.0 MiB" in note
    assert "--keep" in note


def test_bytes_are_told_as_people_do() -> None:
    assert bytes_text(2**30 * 3 // 2) == "1.5 GiB"
    assert bytes_text(2**20) == "1.0 MiB"


def needed(monkeypatch, tmp_path, lifecycle: Lifecycle, updates: int) -> int:
    """Checkpoints that a run of that name is told to make room for on a full disk."""
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    note = room_in(RunFolder(tmp_path / "run"), nn.Linear(2**18, 1), Settings(lifecycle=lifecycle), 1, updates)
    assert note is not None
    return int(note.split("up to ")[1].split()[0])


def test_room_is_for_the_kept_the_best_the_one_being_written_and_the_marked(monkeypatch, tmp_path) -> None:
    assert needed(monkeypatch, tmp_path, Lifecycle(keep=2), 1000) == 4
    assert needed(monkeypatch, tmp_path, Lifecycle(keep=5), 1000) == 7
    assert needed(monkeypatch, tmp_path, Lifecycle(keep=2, keep_every=100), 1000) == 14
    for update in (10, 20, 30):  # what an earlier start of the run has saved
        (tmp_path / "run" / "checkpoints" / f"update-{update:09}").mkdir(parents=True)
    assert needed(monkeypatch, tmp_path, Lifecycle(keep=2), 1000) == 1


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize(
    "optimization", [Optimization(), Optimization(momentum=0.0), Optimization(optimizer="adamw", ema_decay=0.9)]
)
def test_the_estimate_is_what_a_checkpoint_really_holds(optimization, world) -> None:
    network = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200), nn.Linear(200, 10))
    optimizer = make_optimizer(network, optimization)
    average = WeightAverage(network, 0.9) if optimization.ema_decay else None
    network(torch.randn(4, 300)).sum().backward()
    optimizer.step()
    saved = [*network.state_dict().values(), *optimizer_tensors(network, optimizer).values()]
    saved += list(average.network.state_dict().values()) if average else []
    own = 2 * 200 * (2 if average else 1) * world if world > 1 else 0  # each rank's statistics, beside the averaged
    size = sum(tensor.nbytes for tensor in saved) + 4 * own
    assert checkpoint_bytes(network, Settings(optimization=optimization), world) == pytest.approx(size, rel=1e-3)
    sent = Settings(optimization=optimization, compute=Compute(comm="powersgd"))
    remainders = 4 * sum(parameter.numel() for parameter in network.parameters()) * world if world > 1 else 0
    assert checkpoint_bytes(network, sent, world) == pytest.approx(size + remainders, rel=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "compute", "compared"),
    [
        ("muon", Compute(), {"drift"}),
        ("sgd", Compute(), set()),
        ("muon", Compute(exact=True), {"numerics"}),
        ("muon", Compute(exact=True, accept_inexact=True), {"accepted"}),
    ],
)
def test_arithmetic_is_compared_where_it_matters(optimizer, compute, compared) -> None:
    processes = Processes(SimpleNamespace(device=torch.device("cpu"), num_processes=2, process_index=0), "fp32")
    facts = facts_of(Settings(optimization=Optimization(optimizer=optimizer), compute=compute), processes)
    assert {kind for kind in ("numerics", "accepted", "drift") if "threads" in facts[kind]} == compared
