"""What `distrib verify` plans, kills and compares, without training anything."""

import json
import os
import shlex
import signal
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from distrib.insight import difference, launches, restarts
from distrib.insight.launches import Launch, Unproven, excerpt, pid_of, remains
from distrib.insight.restarts import AIMS, Course, Kill, Restart, due, plan
from distrib.insight.sameness import begins, compare, first_other_number, numbers
from distrib.insight.trials import TRAIN, VERBS, put_away, read_request, small, starter, workplace
from distrib.insight.verification import main
from distrib.lifecycle import checkpoints
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.processes import host
from distrib.settings import SettingsError

COURSE = Course(world=4, updates=60, epoch_ends=(20, 40, 60), save_every=7, batch=96, startup=2.0, seconds=5.0)

# A launcher as torchrun is one: a session for each rank, and no goodbye if it is killed itself. Ends if rank 1 does.
LAUNCHER = """
import pathlib, subprocess, sys
ranks = [subprocess.Popen([sys.executable, "-c", sys.argv[2]], start_new_session=True) for _ in range(2)]
pathlib.Path(sys.argv[1] + ".new").write_text(" ".join(str(rank.pid) for rank in ranks))
pathlib.Path(sys.argv[1] + ".new").rename(sys.argv[1])
ranks[1].wait()
ranks[0].kill()
ranks[0].wait()
raise SystemExit(1)
"""
RANK = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"


@pytest.fixture(autouse=True)
def handlers():
    """The command's handlers would stay in this process, and with them in all that it forks."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# The plan of kills


def test_the_same_seed_plans_the_same_kills_and_another_seed_others():
    assert plan(3, 9, COURSE) == plan(3, 9, COURSE)
    assert len({tuple(plan(seed, 9, COURSE)) for seed in range(20)}) == 20


@pytest.mark.parametrize("seed", range(20))
def test_kills_come_in_order_at_places_of_every_kind(seed):
    kills = plan(seed, 8, COURSE)
    assert [kill.update for kill in kills] == sorted(kill.update for kill in kills)
    assert sorted(kill.aim for kill in kills) == sorted(AIMS * 2)
    for kill in kills:
        assert 1 <= kill.update <= 60
        assert 0 <= kill.delay < 1
        assert kill.rank is None or 0 <= kill.rank < 4
        assert kill.aim != "start-up" or kill.rank is None  # no rank has told its pid by then
        assert kill.aim != "save" or kill.update % 7 == 0
        assert kill.aim != "evaluation" or kill.update in (20, 40, 60)


def test_ranks_and_whole_groups_are_killed():
    assert {kill.rank for seed in range(20) for kill in plan(seed, 8, COURSE)} == {None, 0, 1, 2, 3}


def test_a_run_too_short_to_save_on_its_way_is_killed_all_the_same():
    course = Course(world=1, updates=1, epoch_ends=(1,), save_every=500, batch=8, startup=1.0, seconds=2.0)
    assert [kill.update for kill in plan(0, 4, course)] == [1] * 4


def journal_of(*updates, starts=1):
    records = [{"kind": "event", "event": "start", "update": 0}] * starts
    return records + [{"kind": "update", "update": update, "images_per_second": 480.0} for update in updates]


def test_a_kill_is_due_some_part_of_two_updates_after_the_update():
    kill = Kill("update", 7, 0.25, None)
    assert due(kill, [], 0, 1.0, COURSE) is None
    assert due(kill, journal_of(), 0, 1.0, COURSE) is None
    assert due(kill, journal_of(5, 6), 0, 1.0, COURSE) is None
    assert due(kill, journal_of(5, 6, 7), 0, 1.0, COURSE) == 0.25 * 2 * 96 / 480
    assert due(kill, journal_of(6, 9), 0, 1.0, COURSE) == 0.25 * 2 * 96 / 480  # a journal written now and then
    standing = [record | {"images_per_second": None} for record in journal_of(7)]
    assert due(kill, standing, 0, 1.0, COURSE) == 0


def test_what_an_earlier_start_wrote_makes_no_kill_due():
    kill = Kill("update", 7, 0.25, None)
    assert due(kill, journal_of(6, 7), 1, 1.0, COURSE) is None
    assert due(kill, journal_of(6, 7, starts=2), 1, 1.0, COURSE) is not None


def test_a_kill_at_start_up_is_due_while_nothing_is_trained():
    kill = Kill("start-up", 7, 0.25, None)
    assert due(kill, journal_of(6), 1, 0.4, COURSE) is None
    assert due(kill, journal_of(6), 1, 0.5, COURSE) == 0
    assert due(kill, journal_of(6, starts=2), 1, 0.4, COURSE) == 0  # faster than the start that was measured


def test_what_a_run_said_is_shown_from_its_first_error_on(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"{number}\n" for number in range(100)))
    assert excerpt(log).splitlines() == [*map(str, range(80, 100)), f"(all of it: {log})"]
    log.write_text("header\nerror: no images\n" + "torchrun\n" * 50)
    assert excerpt(log).splitlines() == ["error: no images", *["torchrun"] * 19, f"(all of it: {log})"]


# The command that is run


def test_flags_of_training_come_last_and_win():
    words = small(["--lr", "0.3"], 30)
    assert words[-2:] == ["--lr", "0.3"]
    assert "--train-images=960" in words  # ten updates of 96 an epoch
    assert {"--model=simplecnn", "--wandb=off", "--log-every=1"} <= set(words)
    assert TRAIN.is_file()
    assert VERBS.is_file()


def test_another_network_has_its_own_width_and_size_of_images():
    def given(*flags):
        return {flag.partition("=")[0] for flag in small(list(flags), 30)[: -len(flags)]} & {"--width", "--image-size"}

    assert given("--data", "cifar10") == {"--width", "--image-size"}
    assert given("--model=torchvision/mobilenet_v2") == given("--model", "resnet18") == set()


@pytest.mark.parametrize("recipe", [["--config", "a.yaml"], ["--config=a.yaml"]])
def test_a_recipe_alone_says_what_is_trained(recipe):
    added = small(recipe, 30)[: -len(recipe)]
    assert [flag.partition("=")[0] for flag in added] == ["--log-every", "--save-every", "--wandb", "--no-report"]


def test_what_is_not_for_us_is_for_training():
    words = ["--kills", "3", "--model", "resnet18", "--seed=4", "--lr", "1", "--", "--seed", "7"]
    request, flags = read_request(Restart, words, "restart")
    assert (request.kills, request.seed) == (3, 4)
    assert flags == ["--model", "resnet18", "--lr", "1", "--seed", "7"]


def test_the_launcher_says_how_many():
    python = shlex.quote(sys.executable)
    assert starter(None) == starter(None, 1) == [sys.executable]
    assert starter(None, 4)[-2:] == ["--standalone", "--nproc-per-node=4"]
    assert starter(f"{python} -m launch") == [sys.executable, "-m", "launch"]
    assert starter(f"{python} -n {{}} x", 2) == [sys.executable, "-n", "2", "x"]
    with pytest.raises(SettingsError, match=r"put {} where the number of processes belongs"):
        starter(python, 2)


@pytest.mark.parametrize("flags", [["--name", "x"], ["--out=x"], ["--", "--out", "x"]])
def test_the_runs_keep_the_names_by_which_they_are_found(flags):
    with pytest.raises(SettingsError, match="--dir names the folder"):
        read_request(Restart, flags, "restart")


@pytest.mark.parametrize("launcher", ["no-such-launcher --x", " "])
def test_an_unknown_launcher_is_refused(launcher):
    with pytest.raises(SettingsError, match="no such program"):
        starter(launcher)


def test_runs_of_an_earlier_verification_are_not_touched(tmp_path):
    assert workplace(tmp_path / "new", ["killed"]) == (tmp_path / "new").resolve()
    (tmp_path / "new" / "killed").mkdir()
    with pytest.raises(SettingsError, match="holds runs of an earlier verification"):
        workplace(tmp_path / "new", ["whole", "killed"])
    assert workplace(tmp_path / "new", ["other"])


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("named", [True, False])
def test_the_folder_goes_only_if_all_is_well_and_nobody_asked_for_it(tmp_path, code, named, capsys):
    (tmp_path / "runs").mkdir()
    assert put_away(tmp_path / "runs", tmp_path / "runs" if named else None, code) == code
    assert (tmp_path / "runs").exists() == (named or code == 1)
    assert (str(tmp_path / "runs") in capsys.readouterr().out) == (named or code == 1)


def test_an_unknown_claim_is_refused_with_what_there_is(capsys):
    assert main(["restarts"]) == 2
    told = capsys.readouterr().err
    assert "'restarts' cannot be verified; did you mean 'restart'?" in told
    assert "restart    a run that was killed" in told


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_claim_it_tells_what_there_is(arguments, capsys):
    assert main(arguments) == 0
    assert "restart" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        *("restart --kills 0", "restart --updates 5", "exact --worlds 1", "exact --worlds 1 1", "exact --worlds 0 1"),
        *("exact --changes -1", "exact --updates 3", "order --worlds 2", "order --updates 0"),
    ],
)
def test_impossible_arguments_exit_2(words):
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == 2


@pytest.mark.parametrize("claim", ["restart", "exact", "order"])
def test_a_flag_that_nobody_knows_exits_2_with_what_training_says(claim, capsys, tmp_path):
    try:
        code = main([claim, "--kils", "3", "--dir", str(tmp_path / "runs")])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert "--kils" in capsys.readouterr().err


# Processes


@pytest.fixture
def launched(tmp_path):
    """A launcher with two ranks, each in its own session: the launch, and the ranks' pids."""
    told = tmp_path / "pids"
    launch = Launch([sys.executable, "-c", LAUNCHER, str(told), RANK], tmp_path / "log")
    while not told.exists():
        assert launch.process.poll() is None, (tmp_path / "log").read_text()
    ranks = [int(pid) for pid in told.read_text().split()]
    deadline = time.monotonic() + 60
    while launch.processes() != {launch.process.pid, *ranks}:  # one that was just started has no environment yet
        assert time.monotonic() < deadline
    yield launch, ranks
    launch.close()


def beat(folder, rank, pid, where=None):
    heartbeats = folder.path / "heartbeats"
    heartbeats.mkdir(parents=True, exist_ok=True)
    content = {"rank": rank, "host": where or host(), "pid": pid, "beat": 1, "phase": "update", "update": 3}
    (heartbeats / f"rank-{rank}.json").write_text(json.dumps(content).ljust(512))


def test_closing_leaves_no_process_behind_in_whatever_session(launched):
    launch, ranks = launched
    assert os.getsid(ranks[0]) != os.getsid(launch.process.pid)
    launch.close()
    assert launch.processes() == set()
    assert launch.process.returncode == -signal.SIGKILL
    assert not any(remains(pid) for pid in ranks)


def test_ranks_whose_launcher_was_killed_are_found(launched):
    launch, ranks = launched
    launch.process.kill()
    launch.process.wait()
    assert launch.processes() == set(ranks)
    launch.close()
    assert launch.processes() == set()


def test_one_rank_is_killed_and_the_launcher_ends_the_other(launched, tmp_path):
    launch, ranks = launched
    run = RunFolder(tmp_path / "run")
    beat(run, 1, ranks[1])
    assert launch.kill(1, run) == "rank 1"
    assert launch.process.returncode == 1  # it ended by itself


def test_a_launcher_that_does_not_end_is_killed_after_a_while(launched, tmp_path, monkeypatch):
    launch, ranks = launched
    monkeypatch.setattr(launches, "PATIENCE", 0.05)
    run = RunFolder(tmp_path / "run")
    beat(run, 0, ranks[0])
    assert launch.kill(0, run) == "rank 0, then all"
    monkeypatch.undo()
    launch.close()
    assert launch.processes() == set()


def test_without_a_heartbeat_all_are_killed(launched, tmp_path):
    launch, _ = launched
    assert launch.kill(0, RunFolder(tmp_path / "run")) == "group"
    assert launch.processes() == set()


def test_nobody_elses_process_is_killed(launched, tmp_path):
    launch, _ = launched
    run = RunFolder(tmp_path / "run")
    beat(run, 0, os.getpid())  # as after a restart that gave the pid away
    assert launch.kill(0, run) == "group"


def test_the_pid_of_a_rank_on_another_host_means_nothing_here(tmp_path):
    run = RunFolder(tmp_path)
    beat(run, 0, 123)
    beat(run, 1, 456, where="elsewhere")
    assert [pid_of(rank, run) for rank in (0, 1, 2, None)] == [123, None, None, None]
    (tmp_path / "heartbeats" / "rank-0.json").write_text('{"pid": 12')
    assert pid_of(0, run) is None


def test_a_launch_tells_whether_it_lasts(launched):
    launch, _ = launched
    assert launch.lasts(0)
    launch.close()
    assert not launch.lasts(0)


BRIEF = Course(world=1, updates=2, epoch_ends=(2,), save_every=1, batch=8, startup=0.01, seconds=0.01)


def test_a_run_that_fails_without_being_killed_is_told_with_what_it_said(tmp_path):
    words = [sys.executable, "-c", "raise SystemExit('no images')"]
    with pytest.raises(Unproven, match=r"(?s)exit code 1, and nobody had killed it.*no images"):
        restarts.disturbed(words, tmp_path, [Kill("update", 1, 0.5, None)], BRIEF)


@pytest.mark.parametrize("kills", [[], [Kill("update", 1, 0.5, None)]])
def test_a_run_that_hangs_is_ended_and_told(tmp_path, monkeypatch, kills):
    monkeypatch.setattr(restarts, "PATIENCE", 1.0)
    words = [sys.executable, "-c", "import os, sys, signal; print(os.getpid(), flush=True); signal.pause()"]
    with pytest.raises(Unproven, match=r"hangs: .* after its start it had neither ended nor come so far"):
        restarts.disturbed(words, tmp_path, kills, BRIEF)
    pid = (tmp_path / "killed-0.log").read_text()
    assert not pid or not remains(int(pid))


def test_a_run_that_ends_before_its_kill_was_killed_less_often(tmp_path, capsys):
    kills = [Kill("update", 1, 0.5, None), Kill("update", 2, 0.5, None)]
    assert restarts.disturbed([sys.executable, "-c", ""], tmp_path, kills, BRIEF) == 0


def test_what_is_killed_at_start_up_is_started_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(restarts, "PATIENCE", 1.0)
    kills = [Kill("start-up", 1, 0.0, None), Kill("start-up", 2, 0.0, None)]
    words = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(Unproven, match="hangs"):
        restarts.disturbed(words, tmp_path, kills, BRIEF)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [line.split() for line in rows] == [["1", "start-up", "group", "0", "killed", "again", "before"]]
    assert sorted(log.name for log in tmp_path.glob("*.log")) == ["killed-0.log", "killed-1.log", "killed-2.log"]


# The comparison


def write_run(folder, *, weights=None, losses=None, world=2, **state):
    """A finished run of ten updates in two epochs."""
    weights = {"conv.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(4)} | (weights or {})
    checkpoint = folder / "checkpoints" / "update-000000010"
    checkpoint.mkdir(parents=True)
    for group, tensors in {"model": weights, "optimizer": {"fc.bias/momentum_buffer": torch.ones(4)}}.items():
        save_file(
            {name: value for name, value in tensors.items() if value is not None}, checkpoint / f"{group}.safetensors"
        )
    counters = {"update": 10, "epoch": 2, "finished": True, "test_top1": 0.5, "best_top1": 0.75} | state
    (checkpoint / "state.json").write_text(json.dumps(counters))
    records = [{"kind": "event", "event": "start", "time": 1.0, "update": 0, "world_size": world}]
    for update in range(1, 11):
        loss = (losses or {}).get(update, 1 / update)
        records.append({"kind": "update", "update": update, "loss": loss, "grad_norm": 1.5, "images_per_second": 9.0})
        if update % 5 == 0:
            scores = {"train_loss": 0.5, "test_loss": 0.25, "test_top1": 0.5, "seconds": 1.0}
            records.append({"kind": "epoch", "update": update, "epoch": update // 5, **scores})
    write_journal(folder, records)
    return folder


def write_journal(folder, records):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def read_journal(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def whole(tmp_path):
    return write_run(tmp_path / "whole")


def differing(whole, killed):
    """The findings that are not the same, by name."""
    return {finding.what: finding.detail for finding in compare(whole, killed) if not finding.same}


def test_equal_runs_are_the_same_in_everything(whole, tmp_path):
    findings = compare(whole, write_run(tmp_path / "killed"))
    assert all(finding.same for finding in findings)
    assert [f.what for f in findings] == ["model", "optimizer", "counters", "updates", "losses", "world size"]
    told = {finding.what: finding.detail for finding in findings}
    assert told["updates"] == "1 to 10 in both journals, each once"
    assert told["losses"] == "26 losses, norms and accuracies"
    assert told["world size"] == "2 in all 2 starts"


def test_a_changed_bit_is_found_and_its_tensor_named(whole, tmp_path):
    bias = torch.zeros(4)
    bias.view(torch.uint8)[5] ^= 1
    killed = write_run(tmp_path / "killed", weights={"fc.bias": bias})
    told = "first differing tensor: fc.bias, 1 of 4 elements by at most 3.59e-43"
    assert differing(whole, killed) == {"model": told}


@pytest.mark.parametrize(
    ("changed", "how"),
    [
        (torch.full((4,), -0.0), "4 of 4 elements by at most 0"),
        (torch.zeros(4, dtype=torch.float16), "torch.float32 (4,) and torch.float16 (4,)"),
        (torch.zeros(2, 2), "torch.float32 (4,) and torch.float32 (2, 2)"),
    ],
)
def test_equal_numbers_are_not_enough(whole, tmp_path, changed, how):
    killed = write_run(tmp_path / "killed", weights={"fc.bias": changed})
    assert differing(whole, killed) == {"model": f"first differing tensor: fc.bias, {how}"}


def test_a_nan_is_itself(tmp_path):
    one, other = (write_run(tmp_path / name, weights={"fc.bias": torch.full((4,), torch.nan)}) for name in "ab")
    assert differing(one, other) == {}


def test_a_missing_tensor_or_group_is_found(whole, tmp_path):
    killed = write_run(tmp_path / "killed", weights={"conv.weight": None})
    assert differing(whole, killed) == {"model": "only one has the tensor conv.weight"}
    (killed / "checkpoints" / "update-000000010" / "model.safetensors").unlink()
    assert differing(whole, killed) == {"model": "one of the checkpoints lacks it"}


def test_what_cannot_be_read_differs(whole, tmp_path):
    killed = write_run(tmp_path / "killed")
    checkpoint = killed / "checkpoints" / "update-000000010"
    (checkpoint / "optimizer.safetensors").write_bytes(b"rubbish")
    (checkpoint / "state.json").write_text("{")
    found = differing(whole, killed)
    assert set(found) == {"optimizer", "counters"}
    assert all("cannot be read" in detail for detail in found.values())


def test_a_run_without_a_checkpoint_is_not_the_same(whole, tmp_path):
    killed = write_run(tmp_path / "killed")
    (killed / "checkpoints").rename(killed / "elsewhere")
    assert differing(whole, killed) == {"checkpoint": "one of the runs has none"}


def test_counters_that_differ_or_tell_of_an_unfinished_run_are_found(whole, tmp_path):
    assert differing(whole, write_run(tmp_path / "a", best_top1=0.5)) == {"counters": "best_top1 is 0.75 and 0.5"}
    one, other = (write_run(tmp_path / name, finished=False) for name in "bc")
    assert differing(one, other) == {"counters": "not both are finished"}


def test_an_update_that_is_missing_or_there_twice_is_found(whole, tmp_path):
    killed = write_run(tmp_path / "killed")
    records = [record for record in read_journal(killed) if record["update"] != 4 or record["kind"] != "update"]
    write_journal(killed, records)
    assert differing(whole, killed)["updates"] == "killed has update 4 0 times"
    records += [record for record in records if record["kind"] == "update" and record["update"] in (7, 8)]
    write_journal(killed, records)
    assert differing(whole, killed)["updates"] == "killed has update 4 0 times, and 2 more"


def test_updates_lost_at_the_end_are_found(whole, tmp_path):
    killed = write_run(tmp_path / "killed")
    write_journal(killed, [record for record in read_journal(killed) if record["update"] < 10])
    assert differing(whole, killed)["updates"] == "killed has update 10 0 times"


def test_journals_without_updates_show_nothing(tmp_path):
    one, other = (write_run(tmp_path / name) for name in "ab")
    for run in (one, other):
        write_journal(run, read_journal(run)[:1])
    assert set(differing(one, other)) == {"updates", "losses"}


def test_the_first_changed_number_is_named(whole, tmp_path):
    killed = write_run(tmp_path / "killed", losses={9: 5.0, 3: 0.3333333333333334})
    assert differing(whole, killed) == {
        "losses": "loss of the update at update 3: 0.3333333333333333 and 0.3333333333333334"
    }
    records = read_journal(write_run(tmp_path / "scored"))
    records[6]["test_loss"] = 0.125
    write_journal(tmp_path / "scored", records)
    assert differing(whole, tmp_path / "scored") == {"losses": "test_loss of the epoch at update 5: 0.25 and 0.125"}


def test_a_run_that_stopped_before_it_evaluated_is_the_same_as_far_as_it_goes(whole, tmp_path):
    stopped = write_run(tmp_path / "stopped")
    write_journal(stopped, [record for record in read_journal(stopped) if record["update"] < 10 or "loss" in record])
    one, other = read_journal(whole), read_journal(stopped)
    assert len(other) == len(one) - 1
    assert first_other_number(one, other, until=10) is None
    assert "train_loss of the epoch at update 10" in first_other_number(one, other)
    assert "train_loss of the epoch at update 5" in first_other_number(one, other[:6] + other[7:], until=10)


def test_the_last_update_that_both_have_is_compared_and_nothing_after_it(whole, tmp_path):
    one, other = read_journal(whole), read_journal(write_run(tmp_path / "other", losses={10: 5.0}))
    assert first_other_number(one, other, until=10) == "loss of the update at update 10: 0.1 and 5.0"
    assert first_other_number(one, other, until=9) is None


def test_an_average_that_neither_run_kept_is_not_told_of(whole, tmp_path):
    other = write_run(tmp_path / "other")
    pair = [checkpoints.every(folder / "checkpoints")[0] for folder in (whole, other)]
    assert difference.groups(*pair) == ["model", "optimizer"]
    save_file({"fc.bias": torch.ones(4)}, pair[1].path / "ema.safetensors")
    assert difference.groups(*pair) == ["model", "optimizer", "ema"]


def test_times_may_differ(whole, tmp_path):
    killed = write_run(tmp_path / "killed")
    records = [r | {name: 77.0 for name in ("images_per_second", "seconds") if name in r} for r in read_journal(killed)]
    write_journal(killed, records)
    assert differing(whole, killed) == {}


def test_another_number_of_processes_proves_nothing(whole, tmp_path):
    killed = write_run(tmp_path / "killed", world=1)
    assert differing(whole, killed) == {"world size": "whole had 2; killed had 1"}
    records = read_journal(whole)
    again = {"kind": "event", "event": "resume", "time": 2.0, "update": 4, "world_size": 2}
    write_journal(killed, [records[0], again | {"world_size": 1}, *records[1:]])
    assert differing(whole, killed) == {"world size": "whole had 2; killed had 2, 1"}
    write_journal(killed, [records[0], again, *records[1:]])
    assert differing(whole, killed) == {}
    assert len(begins(read_journal(killed))) == 2
    assert numbers(read_journal(killed)) == list(range(1, 11))


def test_the_verdict_is_an_exit_code(whole, tmp_path, capsys):
    same = compare(whole, write_run(tmp_path / "same"))
    assert restarts.tell(same, 3, 3) == 0
    assert "SAME: killed 3 of 3 times, the run" in capsys.readouterr().out
    assert restarts.tell(same, 2, 3) == 0
    assert "SAME: killed 2 of 3 times" in capsys.readouterr().out
    assert restarts.tell(same, 0, 3) == 1
    assert "NOTHING SHOWN" in capsys.readouterr().out
    other = compare(whole, write_run(tmp_path / "other", losses={3: 0.25}))
    assert restarts.tell(other, 3, 3) == 1
    told = capsys.readouterr().out
    assert "losses      DIFFERENT  loss of the update at update 3" in told
    assert "model       same" in told
    assert "DIFFERENT: the run that was killed is not the run that was not" in told
