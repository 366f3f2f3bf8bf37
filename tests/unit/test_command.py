import contextlib
import os
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from distrib import command
from distrib.settings import (
    Augmentation,
    Compute,
    Data,
    Lifecycle,
    Model,
    Optimization,
    Schedule,
    Settings,
    SettingsError,
    Tracking,
)

ROOT = Path(__file__).parents[2]
HELP = Path(__file__).with_name("help.txt")
TORCH_CAME = 99
TYPEGUARD_CAME = 98  # which takes half as long to import as all the rest that help needs

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def train(tmp_path: Path) -> Run:
    """Runs the command as a user does. Where it goes on to import torch, it ends with code 99 instead, and with 98
    where it imports typeguard."""
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    for name, code in (("torch", TORCH_CAME), ("typeguard", TYPEGUARD_CAME)):
        (decoy / f"{name}.py").write_text(f"import os\nos._exit({code})\n")
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "SLURM_PROCID", "FORCE_COLOR")}

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "distrib/train.py", *map(str, arguments)],
            cwd=ROOT,
            env=clean | {"COLUMNS": "120", "NO_COLOR": "1", "PYTHONPATH": str(decoy)} | environment,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def told(answer: subprocess.CompletedProcess[str]) -> str:
    """The one message of a refusal, without the box round it."""
    assert answer.returncode == 2, answer
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    return " ".join(answer.stderr.replace("│", " ").split())


def printed(answer: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert answer.returncode == 0, answer.stderr
    return yaml.safe_load(answer.stdout)


def test_help_is_the_snapshot(train: Run) -> None:
    # To renew it: COLUMNS=120 NO_COLOR=1 python distrib/train.py --help > tests/unit/help.txt
    answer = train("--help")
    assert answer.returncode == 0
    assert answer.stdout == HELP.read_text(encoding="utf-8")


def test_good_settings_go_on_to_torch(train: Run) -> None:
    assert train("--epochs", 1).returncode == TORCH_CAME


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (("--batchsize", "3"), ("--batchsize", "--batch-size")),
        (("--learning-rate", "3", "--lrr", "1"), ("--lrr",)),
        (("--batch-size", "many"), ("--batch-size", "many")),
        (("--schedule", "cosin"), ("--schedule", "cosin", "cosine", "onecycle")),
        (("--model", "resnet81"), ("--model", "resnet81", "did you mean 'resnet18'")),
        (("--data", "cifar1"), ("--data", "cifar1", "did you mean 'cifar10'")),
        (("--nesterov", "--optimizer", "adam"), ("--nesterov", "adam")),
        (("--epochs", "3", "--warmup-epochs", "3"), ("--warmup-epochs", "--epochs")),
    ],
)
def test_a_wrong_flag_or_value_is_refused(train: Run, arguments: tuple[str, ...], needles: tuple[str, ...]) -> None:
    message = told(train(*arguments))
    assert all(needle in message for needle in needles), message


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("batchsize: 64", ("batchsize", "did you mean 'batch_size'")),
        ("config: other.yaml", ("config",)),
        ("lr: 0.1\nlr: 0.2\nepochs: 3\nepochs: 4", ("lr", "epochs", "more than once")),
        ("optimizer: {lr: 0.1}", ("'optimizer'", "flat")),
        ("- lr\n- epochs", ("key: value",)),
        ("lr", ("key: value",)),
        ("lr: [0.1", ("not YAML",)),
        ("[lr, epochs]: 3", ("recipe.yaml",)),
        ("lr: fast", ("--lr", "fast")),
        ("lr: [0.1, 0.2]", ("0.2",)),
        ("lr: -1", ("--lr",)),
        ("lr: null", ("--lr",)),
        ("schedule: cosin", ("--schedule", "cosin")),
        ("nesterov: yes", ("'nesterov'", "true or false")),
        ("nesterov: null", ("'nesterov'", "true or false")),
        ("nesterov: true\noptimizer: adam", ("--nesterov", "adam")),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_its_file(
    train: Run, recipe: Callable[[str], Path], text: str, needles: tuple[str, ...]
) -> None:
    message = told(train("--config", recipe(text)))
    assert all(needle in message for needle in ("recipe.yaml", *needles)), message


def test_a_recipe_that_is_not_there_is_refused(train: Run, tmp_path: Path) -> None:
    assert "nowhere.yaml: No such file" in told(train("--config", tmp_path / "nowhere.yaml"))


def test_a_folder_is_no_recipe(train: Run, tmp_path: Path) -> None:
    assert "Is a directory" in told(train("--config", tmp_path))


def test_a_recipe_that_is_not_utf8_is_refused(train: Run, tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Zürich".encode("latin-1"))
    message = told(train("--config", path))
    assert "latin.yaml" in message
    assert "UTF-8" in message


def test_a_wrong_model_in_a_recipe_is_answered_with_the_nearest(train: Run, recipe: Callable[[str], Path]) -> None:
    assert "did you mean 'simplecnn'" in told(train("--config", recipe("model: simplcnn")))


def test_values_of_a_recipe_mean_what_the_flags_take_them_for(train: Run, recipe: Callable[[str], Path]) -> None:
    path = recipe(
        "lr: 1e-4\nwandb: off\nnesterov: True\nchannels_last: false\nclip-norm: null\nmicro_batch: ~\nwidth:\n"
        "schedule: multistep\nmilestones: [3, 5]\nname: 007\n"
    )
    found = printed(train("--config", path, "--print-settings"))
    expected = {
        "lr": 1e-4,
        "wandb": "off",
        "nesterov": True,
        "channels_last": False,
        "clip_norm": None,
        "micro_batch": None,
        "width": None,
        "milestones": [3, 5],
        "name": "007",
    }
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_recipe_is_all_defaults(recipe: Callable[[str], Path], text: str) -> None:
    assert command.load(recipe(text)) == Settings()


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults(train: Run, recipe: Callable[[str], Path]) -> None:
    path = recipe("epochs: 7\nlr: 0.5\nnesterov: true\nclip_norm: 1.0")
    found = printed(train("--epochs", 9, f"--config={path}", "--no-nesterov", "--clip-norm", None, "--print-settings"))
    assert (found["epochs"], found["lr"], found["nesterov"], found["clip_norm"]) == (9, 0.5, False, None)
    assert found["batch_size"] == Settings().optimization.batch_size


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
@pytest.mark.parametrize("arguments", [("--batchsize", "3"), ("--model", "resnet81"), ("--config", "nowhere.yaml")])
def test_only_the_first_rank_speaks(train: Run, variable: str, arguments: tuple[str, ...]) -> None:
    answer = train(*arguments, **{variable: "1"})
    assert (answer.returncode, answer.stdout, answer.stderr) == (2, "", "")


def test_only_the_first_rank_prints_settings(train: Run) -> None:
    answer = train("--print-settings", RANK="1")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_printed_settings_fed_back_in_print_the_same(train: Run, recipe: Callable[[str], Path]) -> None:
    first = train(
        *("--model", "resnet34", "--lr", "1e-7", "--schedule", "multistep", "--milestones", 2, 4, "--out", "a b: c"),
        *("--wandb", "off", "--clip-norm", 0.25, "--no-channels-last", "--data", "folder:/some/where #1"),
        "--print-settings",
    )
    assert first.returncode == 0, first.stderr
    assert train("--config", recipe(first.stdout), "--print-settings").stdout == first.stdout


NUMBERS = st.floats(1e-12, 0.9, allow_nan=False)
TEXT = st.text(string.ascii_letters + string.digits + " _-.:#'\"[]{}é漢%&*!|>@`\\", min_size=1, max_size=12).map(
    "x".__add__
)
MAYBE = st.none() | st.integers(1, 10**6)

MODELS = st.builds(
    Model,
    model=st.sampled_from(["resnet18", "resnet9", "plain20"]),
    width=MAYBE,
    stem=st.sampled_from(["auto", "cifar", "imagenet"]),
) | st.builds(Model, model=TEXT.map("torchvision/".__add__), pretrained=st.booleans())
DATA = st.builds(
    Data,
    data=st.sampled_from(["digits", "auto"]) | TEXT.map("folder:".__add__) | TEXT.map("hf:".__add__),
    data_root=TEXT.map(Path),
    train_images=MAYBE,
    workers=MAYBE,
    on_bad_image=st.sampled_from(["stop", "skip"]),
)
AUGMENTATIONS = st.builds(
    Augmentation, crop_padding=MAYBE, padding_mode=st.sampled_from(["zero", "reflect"]), cutout=st.integers(0, 9)
)
OPTIMIZATIONS = st.builds(
    Optimization,
    epochs=st.integers(20, 1000),
    micro_batch=MAYBE,
    optimizer=st.sampled_from(["sgd", "adam", "adamw"]),
    lr=st.floats(0.9, 1e9, allow_infinity=False),
    momentum=NUMBERS,
    weight_decay=NUMBERS,
    decay_norms=st.booleans(),
    clip_norm=st.none() | NUMBERS,
    ema_decay=st.none() | NUMBERS,
)
SCHEDULES = st.builds(Schedule, warmup_epochs=NUMBERS, min_lr=NUMBERS, early_stop_patience=MAYBE) | st.builds(
    Schedule,
    schedule=st.just("multistep"),
    milestones=st.sets(st.integers(1, 19), min_size=1).map(sorted).map(tuple),
)
COMPUTE = st.builds(Compute, seed=st.integers(0, 2**32 - 1), channels_last=st.booleans())
LIFECYCLES = st.builds(
    Lifecycle, name=st.none() | TEXT, out=TEXT.map(Path), init=st.none() | TEXT.map(Path), save_every=st.integers(1)
)
SETTINGS = st.builds(
    Settings,
    model=MODELS.filter(lambda model: not model.pretrained),
    data=DATA,
    augmentation=AUGMENTATIONS,
    optimization=OPTIMIZATIONS,
    schedule=SCHEDULES,
    compute=COMPUTE,
    lifecycle=LIFECYCLES,
    tracking=st.builds(Tracking, wandb=st.sampled_from(["off", "auto"])),
)


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(settings=SETTINGS)
def test_what_dump_writes_load_reads(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(command.dump(settings), encoding="utf-8")
    assert command.load(path) == settings


@pytest.mark.parametrize(
    "flags",
    [
        ("--name", "null"),
        ("--out", "null"),
        ("--data-root", "~"),
        ("--data-root", ""),
        ("--clip-norm", "inf"),
        ("--name=-dashed",),
    ],
)
def test_odd_values_are_refused_or_survive_the_way_back(tmp_path: Path, flags: tuple[str, ...]) -> None:
    settings = None
    with contextlib.suppress(SystemExit):
        settings = command.parse(list(flags))
    path = tmp_path / "settings.yaml"
    if settings is not None:
        path.write_text(command.dump(settings), encoding="utf-8")
        assert command.load(path) == settings


def test_load_refuses_with_one_exception(recipe: Callable[[str], Path]) -> None:
    with pytest.raises(SettingsError, match=r"(?s)recipe\.yaml.*--epochs"):
        command.load(recipe("epochs: 0"))
