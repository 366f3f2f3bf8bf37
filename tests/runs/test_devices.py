"""What only some devices can do."""

import pytest

from tests.launching import train, updates

QUICK = ("--data", "digits", "--model", "resnet20", "--batch-size", 64, "--epochs", 2, "--clip-norm", 1)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    flags = ("--data", "digits", "--model", "simplecnn", "--width", 8, "--epochs", 1, "--precision", "fp32")
    flags = (*flags, "--lr", 0.01, "--ema-decay", 0.9)
    train(*flags, "--out", tmp_path, "--name", "eager")
    train(*flags, "--compile", "default", "--out", tmp_path, "--name", "compiled")
    eager, compiled = ([record["loss"] for record in updates(tmp_path / name)] for name in ("eager", "compiled"))
    assert compiled == pytest.approx(eager, rel=1e-3)


def test_fp16_without_a_gpu_is_refused(tmp_path):
    done = train(*QUICK, "--precision", "fp16", "--device", "cpu", "--out", tmp_path, expect=2)
    assert "--precision fp16 needs a GPU" in done.stderr
