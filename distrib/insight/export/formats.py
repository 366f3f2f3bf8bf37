"""A network as one file: safetensors, torch.export or ONNX. Each is written, and loaded by what it is written for.

All but the weights alone take images as they are, uint8 in height, width, RGB: the pre-processing is in the graph.
"""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from distrib.images.feed import Preprocessing
from distrib.insight.export.subject import Subject
from distrib.learning.state import load_weights
from distrib.lifecycle.checkpoints import put_tensors
from distrib.settings import Model, SettingsError
from distrib.zoo import registry

Logits = Callable[[Tensor], Tensor]
"""From images (n, size, size, 3) uint8 to logits (n, classes) float32."""

FACTS = "facts.json"  # among the extra files of torch.export
INPUT, OUTPUT, BATCH = "images", "logits", "batch"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 2**24  # bytes of weights in an ONNX file: protobuf ends at 2 GiB, and the graph needs some


class Whole(nn.Module):
    """The network with its pre-processing: images (n, size, size, 3) uint8 to logits (n, classes) float32."""

    mean: Tensor  # (3,) - of 255
    scale: Tensor  # (3,) - of 1 / 255

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        prepared = subject.run.preprocessing
        self.network = subject.network
        self.register_buffer("mean", torch.tensor(prepared.mean) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(prepared.std) * 255))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise and classify."""
        return self.network(((images.to(torch.float32) - self.mean) * self.scale).permute(0, 3, 1, 2))


def trace(subject: Subject) -> ExportedProgram:
    """The graph of the whole, for any number of images."""
    size = subject.run.preprocessing.size
    some = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # of 1 image, the batch would count as always 1
    program = torch.export.export(Whole(subject).eval(), (some,), dynamic_shapes={INPUT: {0: Dim(BATCH)}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of code with the paths where they lie on this machine
    return program


def as_text(facts: dict[str, Any]) -> dict[str, str]:
    """Facts for a format whose metadata is text: each as JSON."""
    return {name: json.dumps(value) for name, value in facts.items()}


def write_tensors(subject: Subject, file: Path) -> None:
    """Write the weights, with the facts as metadata."""
    put_tensors(file, subject.tensors(), {"format": "pt", **as_text(subject.facts())})


def load_tensors(file: Path) -> Logits:
    """Build the network that the metadata tells of, with the weights beside it."""
    with safetensors.safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    facts = {name: json.loads(text) for name, text in about.items() if name != "format"}
    prepared = Preprocessing.of({**facts, "size": facts["image_size"]})
    network = registry.build(
        Model(**facts["network"]), classes=len(prepared.classes), image_size=prepared.size, download=False
    )
    load_weights(network, safetensors.torch.load_file(file), str(file))
    network.eval()
    return lambda images: network(prepared.normalise(images, channels_last=False))


def write_program(subject: Subject, file: Path) -> None:
    """Write the graph for `torch.export.load`, with the facts as an extra file."""
    content = io.BytesIO()  # written by Python, whose errors name the file
    torch.export.save(trace(subject), content, extra_files={FACTS: json.dumps(subject.facts())})
    file.write_bytes(content.getbuffer())


def load_program(file: Path) -> Logits:
    """Load the graph with PyTorch alone."""
    return torch.export.load(file).module()


def check_onnx() -> None:
    """Raise ``SettingsError`` unless ONNX files can be written and run here."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"--to onnx needs {', '.join(missing)}: pip install 'distrib[onnx]', or in a clone pip install -e '.[onnx]'"
        )


def write_onnx(subject: Subject, file: Path) -> None:
    """Write the graph for ONNX runtimes, with the facts as metadata.

    Raises:
        SettingsError: it is too large for one file.
    """
    size = sum(tensor.nbytes for tensor in subject.network.state_dict().values())
    if size > LARGEST:
        raise SettingsError(f"an ONNX file holds at most 2 GiB, and the weights take {size / 2**30:.1f}: see --to")
    program = torch.onnx.export(
        trace(subject),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: BATCH}},
    )
    assert program is not None, "it is given by the exporter that torch.export feeds"
    program.model.metadata_props.update(as_text(subject.facts()))
    file.write_bytes(program.model_proto.SerializeToString())


def load_onnx(file: Path) -> Logits:
    """Load the graph with ONNX Runtime alone."""
    import onnxruntime  # noqa: PLC0415 - not everybody has it

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
