"""`distrib verify exact`, `verify order` and `diff`: that they show what is promised, and that they can fail."""

import re
import shlex
import sys

import pytest

from distrib.lifecycle.processes import fast_at_bf16
from tests.launching import journal, real_images, run

VERIFY = [sys.executable, "-m", "distrib", "verify"]
# Trains with the elements of one gradient of one rank off by one in their last bit, in one update. (A single element
# may not be: the sum with the others' rounds it away.)
PERTURBED = """
import os, runpy, sys
import torch
from distrib.learning import exact

taken, inner = [0], exact.Bucket.take

def take(bucket):
    taken[0] += 1
    if taken[0] == 20 and os.environ.get("RANK") == "1":
        grad = max((p.grad for p in bucket.parameters), key=torch.numel)
        grad.copy_(torch.nextafter(grad, torch.tensor(torch.inf)))
    inner(bucket)

exact.Bucket.take = take
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ROW = re.compile(r"^([\d, >kiledat]+?)  +(\d+)  (\w{12})  (\w{12})  (\w{12})  (.*)$", re.MULTILINE)
SMALL = ("--updates", "12")
DOCUMENTED = "distrib verify exact --worlds 1 2 4 --changes 1"  # as docs/ say it


def test_any_number_of_processes_and_changes_of_it_give_the_same_bits(tmp_path):
    done = run([*shlex.split(DOCUMENTED), *SMALL, "--dir", str(tmp_path)])
    rows = ROW.findall(done.stdout)
    assert [row[0] for row in rows[:3]] == ["1", "2", "4"]
    assert re.fullmatch(r"\d, killed at \d+ > \d, killed at \d+ > \d", rows[3][0]), done.stdout
    assert {row[1] for row in rows} == {"12"}
    assert len({row[2:5] for row in rows}) == 1
    assert {row[5] for row in rows} == {"same"}
    assert "SAME: 4 runs on 1, 2, 4 processes, bit for bit" in done.stdout
    worlds = [record["world_size"] for record in journal(tmp_path / "run-4") if "world_size" in record]
    assert sorted(worlds) == [1, 2, 4]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("model", "precision"), [("resnet9", "bf16"), ("resnet18", "fp32")])  # minutes each
def test_real_networks_on_real_images_have_one_hash_on_1_to_8_processes(tmp_path, model, precision):
    if precision == "bf16" and not fast_at_bf16("cpu"):
        pytest.skip("this CPU has no instructions for bf16: in place of minutes it would take an hour")
    flags = f"--model {model} --width None --image-size 32 --train-images 160 --test-images 100 --batch-size 16".split()
    flags += ["--precision", precision, "--label-smoothing", "0.1", "--flip", "random", "--data", f"hf:{real_images()}"]
    # By this seed the last run goes from 4 processes to 1, 8 and 2.
    words = [*VERIFY, "exact", "--changes", "1", "--seed", "9", "--dir", str(tmp_path), "--", *flags]
    done = run(words, timeout=2350)
    rows = ROW.findall(done.stdout)
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "4, killed at 12 > 1, killed at 15 > 8, killed at 20 > 2"]
    assert {row[1] for row in rows} == {"30"}
    assert len({row[2:5] for row in rows}) == 1
    assert {row[5] for row in rows} == {"same"}
    settings = (tmp_path / "run-1" / "settings.yaml").read_text()
    for named in ("clip_norm: 1", "ema_decay: 0.99", "label_smoothing: 0.1", f"precision: {precision}", "exact: true"):
        assert f"\n{named}" in settings


@pytest.mark.slow
def test_fast_runs_are_found_to_differ(tmp_path):
    words = [*VERIFY, "exact", "--worlds", "1", "2", "--changes", "0", *SMALL, "--no-exact"]
    done = run(words, expect=1, TMPDIR=str(tmp_path))
    first, second = ROW.findall(done.stdout)
    assert first[2] != second[2]
    assert re.match(r"DIFFERENT at loss of the update at update 1: .*; model: first differing tensor: ", second[5])
    assert "DIFFERENT" in done.stdout.splitlines()[-2]
    assert len(list(tmp_path.glob("distrib-verify-*"))) == 1


def test_one_gradient_of_one_rank_that_is_off_by_one_bit_is_found_and_named(tmp_path):
    script = tmp_path / "perturbed.py"
    script.write_text(PERTURBED)
    python = shlex.quote(sys.executable)
    launcher = f"{python} -m torch.distributed.run --standalone --nproc-per-node {{}} {script}"
    words = [*VERIFY, "exact", "--worlds", "1", "2", "--changes", "0", *SMALL, "--dir", str(tmp_path / "runs")]
    done = run([*words, "--launcher", launcher], expect=1)
    _, second = ROW.findall(done.stdout)
    found = re.match(r"DIFFERENT at (\w+) of the update at update (\d+): ", second[5])
    assert found, done.stdout
    # Four shares a process and one bucket of parameters: the 20th is taken in update 5. Losses round it away for long.
    assert (found[1], found[2]) == ("checksum", "5")
    assert "first differing tensor: " in second[5]
    told = run(
        [sys.executable, "-m", "distrib", "diff", str(tmp_path / "runs/run-1"), str(tmp_path / "runs/run-2")], expect=1
    )
    assert f"{found[1]} of the update at update {found[2]}: " in told.stdout
    assert re.search(
        r"^model +at update \d+ first differing tensor: \S+, [\d,]+ of [\d,]+ elements", told.stdout, re.MULTILINE
    )


@pytest.mark.slow
def test_order_is_the_same_on_any_number_of_processes_and_another_augmentation_is_another(tmp_path):
    words = [*VERIFY, "order", "--worlds", "1", "2", "--updates", "4", "--dir", str(tmp_path)]
    done = run(words)
    rows = re.findall(r"^ +(\d)  +(\d+)  +(\d+)  (\w{12})  same$", done.stdout, re.MULTILINE)
    assert [row[:3] for row in rows] == [("1", "8", "768"), ("2", "8", "768")]
    assert rows[0][3] == rows[1][3]
    assert "SAME" in done.stdout
    script = tmp_path / "other.py"
    script.write_text(
        "import os, sys\n"
        "words = sys.argv[2:] + (['--cutout=3'] if sys.argv[1] == '2' else [])\n"
        "start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={sys.argv[1]}']\n"
        "os.execv(sys.executable, [*start, *words])\n"
    )
    launcher = f"{shlex.quote(sys.executable)} {script} {{}}"
    words = [*VERIFY, "order", "--worlds", "1", "2", "--updates", "4", "--launcher", launcher]
    done = run(words, expect=1, TMPDIR=str(tmp_path))
    assert re.search(r"^ +2 .*DIFFERENT in update 1: image \d+, varied otherwise$", done.stdout, re.MULTILINE), (
        done.stdout
    )
