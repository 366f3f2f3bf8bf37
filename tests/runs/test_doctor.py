"""``distrib doctor`` as people call it: what it prints, what it ends with, and that it leaves nothing behind."""

import json
import re
import sys

from tests.launching import ROOT, command, run, train

CODE = "import sys; from distrib.insight.doctor import main; raise SystemExit(main(sys.argv[1:]))"
WORKER = ROOT / "tests" / "ranks" / "preflight_worker.py"
SMALL = ("--data", "digits", "--model", "simplecnn", "--width", "4")
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def doctor(*flags: object, world: int = 1, expect: int = 0, **changes: str):
    """Call the doctor in so many processes; return its findings and all that it printed."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "--no-python"]
    started = [sys.executable, "-c", CODE]
    several = [sys.executable, "-m", *launcher, *started]
    done = run([*(started if world == 1 else several), *map(str, flags)], expect=expect, **NO_GPU | changes)
    assert done.stdout.count("versions  distrib") == 1  # one of the processes speaks
    return findings(done.stdout), done.stdout


def findings(text: str) -> dict[str, tuple[str, str]]:
    """Level and text of each check, by its name; of several the last."""
    lines = re.findall(r"^(ok|NOTE|PROBLEM) +(\S+(?: \S+)?)  +(.*)$", text, re.MULTILINE)
    return {name: (level, told) for level, name, told in lines}


def test_a_machine_that_can_train_is_told_how(tmp_path):
    found, text = doctor("--config", "configs/quickstart.yaml", "--out", tmp_path / "runs", OMP_NUM_THREADS="1")
    names = ["processes", "data", "device", "threads", "port", "run folder", "W&B", "batch", "training", "disk"]
    assert set(found) - {"memory"} == set(names)
    assert {level for level, _ in found.values()} <= {"ok", "NOTE"}
    assert found["processes"] == ("ok", "one, on cpu")
    assert found["data"] == ("ok", "digits: 1,438 training and 359 test images, 10 classes")
    assert "shared by this many processes: 1, 2, 4, 8, 16, 32, 64" in found["batch"][1]
    assert re.search(r"simplecnn, \d{3},\d{3} parameters, 8x8 pixels; 30 epochs of 22 updates", found["training"][1])
    given = f"--config configs/quickstart.yaml --out {tmp_path / 'runs'}"
    assert f"launch/cpu.sh 2 {given}\n" in text
    assert f"python distrib/train.py {given}\n" in text
    assert "on CPUs it starts one process, whatever N is" in text
    assert text.rstrip().splitlines()[-1].startswith("ready to train")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_form_one_world_and_one_of_them_speaks(tmp_path):
    found, text = doctor(*SMALL, "--out", tmp_path / "runs", world=2)
    assert found["processes"][0] == "ok"
    assert found["processes"][1].startswith("2 form one world: ranks 0-1 on host ")
    assert found["ranks"][0] == "ok"
    assert found["data"] == ("ok", "digits: 1,438 training and 359 test images, 10 classes")
    assert "128 images an update, 64 for each of 2 processes" in found["batch"][1]
    assert "port" not in found  # the launcher has one
    assert "how to train here" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_rank_with_another_flag_is_found_and_all_ranks_end_alike(tmp_path):
    flags = [str(tmp_path), "doctor", *SMALL, "--out", str(tmp_path / "runs")]
    done = run([*command(WORKER, 2), *flags], ODD_FLAGS="--lr 0.2", **NO_GPU)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [{"code": 2}] * 2
    found = findings(done.stdout)
    assert found["processes"][1].startswith("2 form one world")
    level, told = found["ranks"]
    assert level == "PROBLEM"
    assert "rank 1" in told
    assert "--lr 0.2 where rank 0" in told
    assert done.stdout.count("--lr 0.2 where") == 1
    assert found["data"][0] == found["training"][0] == "ok"  # the report goes on
    assert "not ready to train (1 PROBLEM" in done.stdout


def test_what_training_would_refuse_are_problems_among_the_findings(tmp_path):
    (tmp_path / "file").touch()
    flags = ("--data", f"folder:{tmp_path / 'none'}", "--out", tmp_path / "file" / "runs", "--device", "cuda")
    found, text = doctor(*flags, expect=2)
    remedies = {"data": "train/<class>/", "run folder": "Choose another --out", "processes": "leave --device out"}
    assert {name for name, (level, _) in found.items() if level == "PROBLEM"} == set(remedies)
    assert all(remedy in found[name][1] for name, remedy in remedies.items())
    assert {"batch", "W&B"} <= set(found)  # nothing ends the report
    assert text.rstrip().endswith("not ready to train (3 PROBLEM)")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_batch_that_the_processes_cannot_share_is_a_problem():
    found, _ = doctor(*SMALL, "--batch-size", 5, world=2, expect=1)  # torchrun's own code
    level, told = found["batch"]
    assert level == "PROBLEM"
    assert "use --batch-size 4 or 6, or one of 1, 5 processes" in told


def test_a_run_that_is_there_is_looked_at_and_left_as_it_is(tmp_path):
    flags = (*SMALL, "--out", tmp_path, "--name", "mine")
    train(*flags, "--epochs", 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found, _ = doctor(*flags, "--epochs", 1)
    assert found["run folder"][0] == "NOTE"
    assert "mine is finished" in found["run folder"][1]
    now = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert {path for path in now if now[path] != before.get(path)} <= {tmp_path}  # a file came there and went
