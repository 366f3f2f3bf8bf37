"""What a run's network makes of the test images, and what it consists of, as parts of the report."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from distrib.insight.evaluation import prepare
from distrib.insight.findings import MOST_CLASSES, Findings, Shown
from distrib.insight.predictions import Predictions, collect
from distrib.insight.report import analysis, figures, page, pictures
from distrib.insight.report.cost import cost_of
from distrib.insight.report.page import Section
from distrib.insight.runs import Run, load_run
from distrib.lifecycle.ending import Ending
from distrib.lifecycle.processes import start
from distrib.zoo import anatomy

MOST_CONFUSED = 100  # pairs of classes in a table


def network_sections(path: Path, ending: Ending) -> tuple[list[Section], Findings]:
    """What the best checkpoint of the run at ``path`` shows, and as data. What it starts is closed at the ending.

    Raises:
        SettingsError: there is no checkpoint, or the test images are not there.
    """
    run = load_run(path)
    processes = start(dataclasses.replace(run.settings.compute, device="auto"))
    ending.then(processes.close)
    network, feed = prepare(run, processes)
    said = collect(network, feed, processes, channels_last=run.settings.compute.channels_last)
    found = analysis.find(said, run.checkpoint.update)
    return [*image_sections(said, found, feed.image), layer_section(run)], found


def image_sections(said: Predictions, found: Findings, image: Callable[[int], Image.Image]) -> list[Section]:
    """What the network makes of the test images; ``image`` gives one by its index."""
    names = found.classes

    def shown(some: list[Shown]) -> str:
        return page.gallery(
            (pictures.picture(image(one.index)), names[one.label], names[one.predicted], one.confidence) for one in some
        )

    scores = [dataclasses.astuple(row) for row in found.scores]
    calibrated = analysis.calibration(said)
    error = page.paragraph(f"Expected calibration error: {calibrated.error:.2%}.")
    return [
        confusion_section(found),
        Section("classes", "Classes", page.table(["class", "precision", "recall", "F1", "images"], scores)),
        Section("calibration", "Calibration", error + page.chart("reliability", figures.reliability(calibrated))),
        Section("errors", "Most confident errors", shown(found.errors)),
        Section("predictions", "Some predictions", shown(found.predictions)),
        Section("features", "Map of the features", feature_map(said, image)),
    ]


def confusion_section(found: Findings) -> Section:
    """What was taken for what: a matrix, or the most frequent errors where there are too many classes for one."""
    names = found.classes
    if len(names) <= MOST_CLASSES:
        return Section("confusion", "Confusion matrix", page.chart("matrix", figures.matrix(found.confusion, names)))
    errors = sorted((cell for cell in found.confusion if cell[0] != cell[1]), key=lambda cell: -cell[2])
    rows = [(names[true], names[taken], images) for true, taken, images in errors[:MOST_CONFUSED]]
    return Section("confusion", "Most confused classes", page.table(["class", "taken for", "images"], rows))


def feature_map(said: Predictions, image: Callable[[int], Image.Image]) -> str:
    """t-SNE of the features; the images are on a sheet, of which the page shows the one below the pointer."""
    rows, places = analysis.feature_map(said)
    if not len(rows):
        return page.paragraph("There are too few test images for a map.")
    names, predicted = said.classes.tolist(), said.predicted  # looked for in all probabilities: once
    texts = [f"{names[said.label[row]]}, predicted {names[predicted[row]]}" for row in rows]
    drawn = figures.plane(places, said.label[rows], names, texts)
    tiles = pictures.sheet([image(int(said.index[row])) for row in rows])
    sheet = (
        f'<img id="sheet" hidden alt="" src="{tiles}" data-side="{pictures.TILE}" data-columns="{pictures.COLUMNS}">'
    )
    told = (
        f"t-SNE of {len(rows):,} test images, coloured by class. Images that the network takes for alike lie together."
    )
    return page.paragraph(told) + page.chart("feature-map", drawn) + sheet + '<div id="tile"></div>'


def layer_section(run: Run) -> Section:
    """The network, layer by layer, and what it costs."""
    size, cost = run.preprocessing.size, cost_of(run)
    net, training = cost.network, cost.flops[run.checkpoint.state["update"]]
    rows = [
        ("parameters", f"{anatomy.parameters(net):,}"),
        *((name, f"{count:,}") for name, count in anatomy.components(net).items()),
        ("forward pass of an image", f"{anatomy.forward_flops(net, size) / 1e6:,.1f} MFLOP"),
        ("training up to this checkpoint, about", f"{training / 1e15:.3g} PFLOP"),
    ]
    layers = [(a.name, a.kind, " x ".join(map(str, a.output_shape)), a.parameters) for a in anatomy.layers(net, size)]
    return Section("layers", "Layers", page.facts(rows) + page.table(["layer", "kind", "output", "parameters"], layers))
