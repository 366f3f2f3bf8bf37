"""Gradients that are sent in fewer bytes."""

import signal
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distrib.learning.compression import PowerSGD
from tests.launching import follow, hashes, journal, start_train, train, updates

QUICK = ("--device", "cpu", "--precision", "fp32", "--data", "digits", "--model", "simplecnn", "--width", 8)
QUICK = (*QUICK, "--batch-size", 64, "--epochs", 2, "--lr", 0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes for each kind, which nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    for comm in ("fp32", "bf16", "powersgd"):
        train(*QUICK, "--comm", comm, "--out", out, "--name", comm, world=2)
        start = next(record for record in journal(out / comm) if record.get("event") == "start")
        assert start["world_size"] == 2
    return out


def losses(folder):
    return [record["loss"] for record in updates(folder)]


@pytest.mark.parametrize("comm", ["bf16", "powersgd"])
def test_it_learns_about_the_same(whole, comm):
    plain, sent = losses(whole / "fp32"), losses(whole / comm)
    assert sent != plain
    assert sum(sent[-5:]) == pytest.approx(sum(plain[-5:]), rel=0.02 if comm == "bf16" else 0.2)
    assert sum(sent[-5:]) < 0.7 * sum(sent[:5])


def test_powersgd_sends_the_first_tenth_as_it_is(whole):
    plain, sent = losses(whole / "fp32"), losses(whole / "powersgd")
    assert len(plain) == 44
    assert sent[:5] == plain[:5]  # the loss of an update is that before it
    assert sent[5] != plain[5]


@pytest.fixture
def parted(tmp_path):
    """The flags of a run of two processes that was interrupted, and its folder."""
    flags = (*QUICK, "--comm", "powersgd", "--log-every", 1, "--out", tmp_path, "--name", "parted")
    process = start_train(*flags, world=2)
    follow(process, tmp_path / "parted", lambda record: record.get("update", 0) >= 9)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert 9 <= len(updates(tmp_path / "parted")) < 44
    return flags, tmp_path / "parted"


def test_an_interrupted_run_ends_with_the_same_bits(whole, parted):
    flags, folder = parted
    train(*flags, world=2)
    assert hashes(folder) == hashes(whole / "powersgd")
    assert "compression.safetensors" in hashes(whole / "powersgd")


def test_it_goes_on_with_another_number_of_processes(parted):
    flags, folder = parted
    done = train(*flags)
    assert "the run was on 2 processes and is now on 1" in done.stdout
    assert losses(folder)[-1] < losses(folder)[0]


def test_several_buckets_do_not_overtake_one_another(tmp_path):
    """DDP's first bucket holds 1 MiB. Over gloo the messages of two of them may come in any order, and abort."""
    flags = (*QUICK, "--width", 64, "--epochs", 1, "--comm", "powersgd")
    train(*flags, "--out", tmp_path, "--name", "wide", world=4)
    assert len(updates(tmp_path / "wide")) == 22
    newest = max((tmp_path / "wide/checkpoints").glob("update-*"))
    kept = load_file(newest / "compression.safetensors")
    assert {"error/0", "error/1"} <= set(kept)
    assert len(kept["error/0"]) == 4


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def alone(request, tmp_path):
    """The device of this process, which is a process group of its own."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    backend = {"cpu": "gloo", "cuda": "nccl"}[request.param]
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield request.param
    dist.destroy_process_group()


def test_to_go_back_to_where_it_had_not_begun_is_to_begin_anew(alone):
    torch.manual_seed(0)
    network = DistributedDataParallel(nn.Linear(64, 64).to(alone))
    sender, images = PowerSGD(network, updates=20), torch.randn(4, 16, 64, device=alone)

    def factors(first):
        for update in range(first, 4):
            sender.begin(update)
            network(images[update]).square().mean().backward()
            network.zero_grad()
        return sender._memories["q"][0].clone()

    found = factors(0)
    sender.load({}, SimpleNamespace(size=1, rank=0, device=alone))
    assert torch.equal(factors(1), found)


@contextmanager
def poisoned(layers):
    """While gradients on their way to the first layer become NaN; those of the second are fine."""

    def poison(_, __, output):
        output.register_hook(lambda gradient: gradient * torch.nan)

    handle = layers[0].register_forward_hook(poison)
    yield
    handle.remove()


@pytest.mark.parametrize("bad", [2, 5])  # the first update that is approximated, and a later one
def test_an_update_that_is_not_finite_leaves_no_trace(alone, bad):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).to(alone)
    network = DistributedDataParallel(layers, bucket_cap_mb=0.01)  # each layer's gradient goes alone
    sender = PowerSGD(network, updates=20)
    images = torch.randn(9, 16, 64, device=alone)
    for update in range(9):
        before = {kind: {at: tensor.clone() for at, tensor in kept.items()} for kind, kept in sender._memories.items()}
        sender.begin(update)
        with poisoned(layers) if update == bad else nullcontext():
            network(images[update]).square().mean().backward()
        finite = [parameter.grad.isfinite().all() for parameter in network.parameters()]
        assert all(finite) == (update != bad)
        assert any(finite)
        sender.undo(~torch.stack(finite).all())
        network.zero_grad()
        after = {kind: sender._memories[kind] for kind in ("error", "q")}
        if update == bad and before["error"]:
            assert all(torch.equal(after[kind][at], before[kind][at]) for kind in after for at in before[kind])
        if update >= 2:
            assert all(tensor.isfinite().all() for kept in after.values() for tensor in kept.values())
            assert {len(kept) for kept in after.values()} == {2}
    assert all(tensor.abs().max() > 0 for tensor in after["error"].values())


def test_exact_goes_without(tmp_path):
    done = train(*QUICK, "--exact", "--comm", "bf16", "--out", tmp_path, expect=2)
    assert "--exact sends gradients as they are" in done.stderr
