"""Each command of the README and of docs/, run as it stands there but for what would make it long."""

import re
import shlex
import sys

import pytest

from tests.launching import ROOT, run
from tests.runs import test_exactness, test_tutorial
from tests.slurm.test_docs import ALL as ON_A_CLUSTER

SHORT = "--data digits --epochs 1 --width 8"
# What is added to a command so that it ends soon; its exit code where it is not 0.
COMMANDS = {
    "accelerate launch distrib/train.py --model resnet50": (SHORT, 0),
    "launch/cpu.sh 2 --config configs/resnet9_onecycle.yaml": (SHORT, 0),
    "python distrib/train.py --model resnet18": (SHORT, 0),
    "python distrib/train.py --config configs/quickstart.yaml": ("--epochs 1", 0),
    "python distrib/train.py --config configs/resnet9_onecycle.yaml --lr 0.02 --epochs 12": (SHORT, 0),
    "python distrib/train.py --data folder:my/images --model torchvision/convnext_tiny": ("", 2),  # it is not there
    "python distrib/train.py --help": ("", 0),
    "launch/cpu.sh 2 --config configs/quickstart.yaml": ("--epochs 1", 0),
    "launch/multi_gpu.sh --config configs/resnet18_cosine.yaml": (
        "--device cpu",
        2,
    ),  # there is no GPU, or none is used
    "accelerate launch --config_file launch/accelerate/cpu.yaml distrib/train.py --model resnet18": (SHORT, 0),
    "python distrib/train.py --config configs/quickstart.yaml --name first": ("--epochs 1", 0),
    "torchrun --standalone --nproc-per-node 2 -m distrib doctor --config configs/quickstart.yaml": ("", 0),
    "distrib checkpoints runs/first --verify": ("", 0),
    'distrib verify restart --launcher "torchrun --standalone --nproc-per-node 2"': ("--kills 1 --updates 12", 0),
    "launch/cpu.sh 2 --config configs/quickstart.yaml --exact --name exact": ("--epochs 1", 0),
    "distrib verify exact --worlds 1 2": ("--changes 0 --updates 6", 0),
    "distrib verify order --worlds 1 2": ("--updates 2", 0),
    "distrib diff runs/first runs/exact": ("", 1),
    "distrib compare runs/first runs/exact --out comparison.html": ("", 0),
    "python distrib/train.py --config configs/quickstart.yaml --exact --name alone": ("--epochs 1", 0),
    "launch/cpu.sh 2 --config configs/quickstart.yaml --exact --name together": ("--epochs 1", 0),
    "distrib diff runs/alone runs/together": ("", 0),
    "env PET_MAX_RESTARTS=3 launch/cpu.sh 2 --config configs/quickstart.yaml --name elastic": ("--epochs 1", 0),
    "distrib evaluate runs/first": ("", 0),
    "distrib report runs/first": ("", 0),
    "distrib report runs/first --curves": ("", 0),
    "distrib evaluate runs/first --save said.parquet": ("", 0),
    "distrib predict runs/first tests/nine.png --top 2": ("", 0),
    "distrib export runs/first --to onnx": ("", 0),
    "distrib export runs/first --to torch-export": ("", 0),
    "distrib export runs/first --to safetensors": ("", 0),
    "distrib export runs/first --to hub-folder": ("", 0),
    "distrib predict runs/first/export/hub-folder tests/nine.png": ("", 0),
    "distrib pack packed/digits --data digits --form raw": ("", 0),
    "python distrib/train.py --data pack:packed/digits --model resnet20": ("--epochs 1 --width 8", 0),
    "distrib pack packed/digits --check": ("", 0),
    "distrib models": ("", 0),
    "distrib models resnet18 --image-size 32": ("", 0),
}


def commands() -> list[str]:
    text = "\n".join(path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_command_of_the_readme_is_run_here():
    assert set(commands()) == {*COMMANDS, test_exactness.DOCUMENTED, *ON_A_CLUSTER, *test_tutorial.commands()}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("line", COMMANDS)  # in their order: `evaluate` needs the run before it
def test_the_command_does_what_the_readme_says(line, out):
    added, code = COMMANDS[line]
    if "train.py" in line or "launch/" in line:
        added = f"{added} --out {out} --wandb off --no-report" if "--help" not in line else added
    words = shlex.split(
        f"{line} {added}".replace("runs/", f"{out}/")
        .replace("said.", f"{out}/said.")
        .replace("packed/", f"{out}/packed/")
        .replace("comparison.", f"{out}/c.")
    )
    done = run(words, expect=code, CUDA_VISIBLE_DEVICES="")
    assert "Traceback" not in done.stderr
    assert done.stdout or code == 2


def test_the_python_of_the_readme_runs(out):
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (pandas, records) = re.findall(r"`((?:datasets|pandas)\.[^`]*)`", text)
    script = f"{code}\nimport datasets, pandas\nprint(len({pandas}['train']), len({records}))"
    done = run([sys.executable, "-c", script.replace("runs/", f"{out}/")], HF_DATASETS_CACHE=str(out / "cache"))
    first, *_, last = done.stdout.splitlines()
    assert re.fullmatch(r"tests/nine.png \['\d', '\d', '\d'\] \[.*\]", first)
    assert len({*last.split()}) == 1


def test_the_links_of_the_documents_lead_somewhere():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text()
        targets = re.findall(r"\]\(([^)#]+)\)", text)
        assert all((document.parent / target).exists() for target in targets if "://" not in target)
        paths = re.findall(r"`((?:distrib|configs|launch|tests|slurm|benchmarks)/[\w/.]*)`", text)
        assert paths
        assert all((ROOT / path).exists() for path in paths), paths
