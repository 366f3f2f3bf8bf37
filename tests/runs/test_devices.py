"""What only some devices can do."""

import pytest
import torch

from tests.launching import journal, train, updates

QUICK = ("--data", "digits", "--model", "resnet20", "--batch-size", 64, "--epochs", 2, "--clip-norm", 1)

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_learns_on_a_gpu(tmp_path, precision):
    flags = (*QUICK, "--clip-value", 0.5, "--ema-decay", 0.9, "--precision", precision)
    train(*flags, "--device", "cuda", "--out", tmp_path, "--name", "gpu")
    epochs = [record for record in journal(tmp_path / "gpu") if record["kind"] == "epoch"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]


@pytest.mark.gpu
@cuda
def test_a_gpu_repeats_itself_bit_for_bit(tmp_path):
    for name in ("first", "second"):
        train(*QUICK, "--device", "cuda", "--out", tmp_path, "--name", name)
    first, second = ([record["loss"] for record in updates(tmp_path / name)] for name in ("first", "second"))
    assert first == second


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    flags = ("--data", "digits", "--model", "simplecnn", "--width", 8, "--epochs", 1, "--precision", "fp32")
    flags = (*flags, "--lr", 0.01, "--ema-decay", 0.9)
    train(*flags, "--out", tmp_path, "--name", "eager")
    train(*flags, "--compile", "--out", tmp_path, "--name", "compiled")
    eager, compiled = ([record["loss"] for record in updates(tmp_path / name)] for name in ("eager", "compiled"))
    assert compiled == pytest.approx(eager, rel=1e-3)


def test_fp16_without_a_gpu_is_refused(tmp_path):
    done = train(*QUICK, "--precision", "fp16", "--device", "cpu", "--out", tmp_path, expect=2)
    assert "--precision fp16 needs a GPU" in done.stderr
