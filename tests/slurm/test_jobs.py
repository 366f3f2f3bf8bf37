"""slurm/resnet.sh on a real Slurm: to the end, through preemption, requeue, failure."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launching import hashes, pids, train, updates, wait_until_gone
from tests.slurm.jobs import Job, events, queued, slurm, submit, try_slurm
from tests.wandb_files import history

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
RESNET, ACCELERATE = "slurm/resnet.sh", "slurm/resnet_accelerate.sh"
SMALL = ("--config", "configs/quickstart.yaml", "--model", "resnet18", "--width", "8", "--wandb=off", "--no-report")
SMALL = (*SMALL, "--precision", "fp32", "--log-every", "1", "--save-every", "1000", "--epochs", "6")
TWO = ("--nodes=2", "--ntasks-per-node=1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Hashes of the same run, which nothing interrupted: in two processes of torchrun."""
    out = tmp_path_factory.mktemp("undisturbed")
    train(*SMALL, "--out", out, "--name", "job", world=2)
    return hashes(out / "job")


def assert_whole(job, undisturbed):
    """Each update stands in the journal once, and the weights are those of the run that nothing interrupted."""
    found = [record["update"] for record in updates(job.folder)]
    assert found == list(range(1, len(found) + 1))
    assert hashes(job.folder) == undisturbed


def test_two_nodes_train_resnet18_as_one_world_and_one_run_of_wandb(tmp_path):
    flags = ("--model", "resnet18", "--data", "digits", "--train-images", 256, "--batch-size", 64, "--epochs", 2)
    job = submit(RESNET, tmp_path, *flags, "--wandb", "offline", options=TWO)
    facts = job.wait_until_over()
    assert facts["JobState"] == "COMPLETED", job.output
    assert facts["Restarts"] == "0"
    assert [event["world_size"] for event in events(job.folder, "start")] == [2]
    assert [record["update"] for record in updates(job.folder)] == list(range(1, 9))
    assert len(list(job.folder.rglob("*.wandb"))) == len(history(job.folder)) == 1
    assert job.output.count("model       resnet18") == 1
    beats = list((job.folder / "heartbeats").glob("rank-*.json"))
    assert len(beats) == 2


@pytest.mark.parametrize("way", ["asked", "put back from outside", "accelerate"])
def test_a_job_that_is_preempted_goes_on_where_it_was(tmp_path, undisturbed, way):
    flags = (*SMALL, "--wandb", "offline" if way == "asked" else "off")
    job = submit(ACCELERATE if way == "accelerate" else RESNET, tmp_path, *flags, options=TWO)
    job.wait_for_update(20)
    if way == "put back from outside":
        slurm("scontrol", "requeue", job.number)
    else:
        job.signal("USR2")
    facts = job.wait_until_over()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), job.output
    stop, resume = events(job.folder, "stop", "resume")
    assert stop["exit_code"] == 75
    assert stop["update"] == resume["update"] >= 20
    assert stop["signal"] == ("SIGTERM" if way == "put back from outside" else "SIGUSR2")
    assert resume["world_size"] == 2
    first, second = re.findall(
        r"start (\d): 2 processes on node\[1-2\], run .*job( from update-\d+)?$", job.output, re.MULTILINE
    )
    assert (first, second) == (("1", ""), ("2", f" from update-{stop['update']:09}"))
    assert_whole(job, undisturbed)
    if way == "asked":  # one run of W&B, from both starts
        (rows,) = history(job.folder).values()
        logged = [row["update"] for row in rows if "train/loss" in row]
        assert logged == [record["update"] for record in updates(job.folder)]


@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_on_where_it_was(tmp_path):
    # Slurm looks at limits twice a minute: the signal comes up to a minute before it should.
    job = submit(RESNET, tmp_path, *SMALL, "--epochs", 10_000, options=(*TWO, "--time=1", "--signal=USR2@50"))
    job.follow(lambda record: record.get("event") == "resume")
    stop = events(job.folder, "stop")[0]
    assert (stop["signal"], stop["exit_code"]) == ("SIGUSR2", 75)
    assert events(job.folder, "resume")[0]["update"] == stop["update"]
    assert int(job.facts()["Restarts"]) >= 1  # more if the signal came before there was something to save
    slurm("scancel", job.number)
    job.wait_until_over()


def test_scancel_saves_and_is_final_and_the_run_goes_on_by_its_name_on_another_number_of_tasks(tmp_path):
    exact = (*SMALL, "--exact", "--threads", 1)
    job = submit(RESNET, tmp_path, *exact, options=TWO)
    job.wait_for_update(20)
    slurm("scancel", job.number)
    facts = job.wait_until_over()
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    (stop,) = events(job.folder, "stop")
    assert (stop["exit_code"], stop["signal"]) == (75, "SIGTERM")
    assert (job.folder / "checkpoints" / f"update-{stop['update']:09}").is_dir()
    again = submit(RESNET, tmp_path, *exact)
    assert again.wait_until_over()["JobState"] == "COMPLETED", again.output
    worlds = [event["world_size"] for event in events(job.folder, "start", "resume")]
    assert worlds == [2, 1]
    train(*exact, "--out", tmp_path, "--name", "alone")
    assert_whole(again, hashes(tmp_path / "alone"))


def test_a_killed_worker_fails_the_job_which_is_not_put_back_and_nothing_is_lost(tmp_path, undisturbed):
    flags = (*SMALL, "--save-every", 10)
    job = submit(RESNET, tmp_path, *flags, options=TWO)
    job.wait_for_update(25)
    ranks = pids(job.folder)
    assert set(ranks) == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    facts = job.wait_until_over()
    assert (facts["JobState"], facts["Restarts"]) == ("FAILED", "0")
    assert job.output.count("error: rank 1") == 1
    assert "ended without a word" in job.output
    wait_until_gone(ranks.values())
    again = submit(RESNET, tmp_path, *flags, options=TWO)
    assert again.wait_until_over()["JobState"] == "COMPLETED", again.output
    assert events(job.folder, "resume")[0]["update"] >= 20
    assert_whole(again, undisturbed)


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--lr", "1e30", "--warmup-epochs", 0), "3:0", "not finite"),
        (("--data", "folder:absent"), "2:0", "\nerror: "),
        (("--modell", "resnet18"), "2:0", "Unrecognized options:"),
    ],
)
def test_what_will_not_go_better_the_next_time_is_not_put_back(tmp_path, flags, code, told):
    job = submit(RESNET, tmp_path, *SMALL, *flags, options=TWO)
    facts = job.wait_until_over()
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", code, "0"), job.output
    assert job.output.count(told) == 1


def lose(cluster, node):
    """Kill the daemon of a node."""
    told = subprocess.run([cluster, "status"], capture_output=True, text=True, check=False).stdout
    os.kill(int(re.search(rf"{node}: (\d+)", told)[1]), signal.SIGKILL)


@pytest.mark.slow
def test_a_job_goes_on_after_the_loss_of_a_machine(tmp_path, undisturbed, cluster):
    job = submit(RESNET, tmp_path, *SMALL, "--save-every", 10, options=TWO)
    job.wait_for_update(25)
    ranks = pids(job.folder)
    starter = int(Path(f"/proc/{ranks[1]}/stat").read_text().rpartition(")")[2].split()[1])
    lose(cluster, "node2")
    for pid in (starter, ranks[1]):
        os.kill(pid, signal.SIGKILL)
    job.wait("PENDING")  # by Slurm, or by the job itself, whichever sees it first
    subprocess.run([cluster, "start"], check=True, stdout=subprocess.DEVNULL)
    facts = job.wait_until_over()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), job.output
    assert events(job.folder, "resume")[0]["update"] >= 20
    assert_whole(job, undisturbed)


@pytest.mark.slow
def test_slurm_puts_a_job_back_when_a_daemon_is_lost(tmp_path, cluster):
    job = submit(RESNET, tmp_path, *SMALL, "--epochs", 10_000, options=TWO)
    job.wait_for_update(25)
    lose(cluster, "node2")
    job.wait("PENDING")  # until Slurm sees it, training goes on
    (stop,) = events(job.folder, "stop")
    assert (stop["signal"], stop["exit_code"]) == ("SIGTERM", 75)
    subprocess.run([cluster, "start"], check=True, stdout=subprocess.DEVNULL)
    job.follow(lambda record: record.get("event") == "resume")
    assert events(job.folder, "resume")[0]["update"] == stop["update"]
    slurm("scancel", job.number)
    job.wait_until_over()


def test_a_job_that_never_gets_to_save_stays_away_from_the_queue(tmp_path):
    job = submit(RESNET, tmp_path, *SMALL, "--data", "synthetic", "--train-images", 300_000, options=TWO)
    seen = set()
    for _ in range(3):
        seen |= job.wait_for_other_ranks(seen)
        job.signal("USR2")
    facts = job.wait_until_over()
    assert (facts["JobState"], facts["Restarts"]) == ("FAILED", "2"), job.output
    assert "3 starts in a row brought no new checkpoint" in job.output


def test_srun_starts_a_run_by_itself(tmp_path):
    train = ("python", "distrib/train.py", *SMALL, "--epochs", 1, "--out", tmp_path, "--name", "direct")
    slurm("srun", *TWO, *train)
    assert [event["world_size"] for event in events(tmp_path / "direct", "start")] == [2]


def test_salloc_needs_srun_and_says_so(tmp_path):
    train = ("python", "distrib/train.py", *SMALL, "--epochs", 1, "--out", tmp_path, "--name", "held")
    refused = try_slurm("salloc", "--ntasks=2", *train)
    assert refused.returncode == 2
    assert refused.stderr.count("error:") == 1
    assert "put `srun` before the command" in refused.stderr
    slurm("salloc", "--ntasks=2", "srun", *train)
    assert [event["world_size"] for event in events(tmp_path / "held", "start")] == [2]


def test_a_sweep_is_an_array_and_then_a_table(tmp_path):
    grid = tmp_path / "rates.yaml"
    grid.write_text(
        "common: {config: configs/quickstart.yaml, epochs: 2, wandb: off, report: false, log_every: 1}\n"
        "grid: {lr: [0.1, 0.05], seed: [0, 1]}\n"
    )
    sweep = ("python", "-m", "distrib", "sweep")
    where = ("--out", tmp_path / "runs")
    slurm(*sweep, grid, *where, "--at-once", 2, "--", "--ntasks=1", "--hold")
    table = slurm(*sweep, "status", grid, *where)
    assert "4 runs: 0 done, 0 running, 4 waiting, 0 failed" in table
    array, last = sorted(set(queued()), key=int)
    slurm("scontrol", "release", array)
    seen = set()
    while array in queued():
        table = slurm(*sweep, "status", grid, *where)
        seen.add(re.search(r"(\d) done, (\d) running, (\d) waiting, (\d) failed", table).groups())
    assert all(int(running) <= 2 and failed == "0" for _, running, _, failed in seen)
    assert any(int(running) > 0 for _, running, _, _ in seen)
    Job(last, tmp_path).wait_until_over()
    written = (tmp_path / "runs" / "rates" / "status.txt").read_text()
    assert "4 runs: 4 done, 0 running, 0 waiting, 0 failed; best so far: " in written
    assert written == slurm(*sweep, "status", tmp_path / "runs" / "rates")
