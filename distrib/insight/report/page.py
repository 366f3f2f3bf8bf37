"""The page: sections of text, tables, charts and pictures in one HTML file that asks for nothing from elsewhere.

All text passes through :func:`escaped`: names of runs, classes and files are shown as they are, whatever they contain.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading, and its content as HTML."""

    anchor: str
    title: str
    content: str


def escaped(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escaped(text)}</p>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Pairs of a name and a text."""
    return "<dl>" + "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in rows) + "</dl>"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells that are numbers are set to the right."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="scrolls" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f'<td class="number">{value:.4f}</td>' if isinstance(value, float) else f"<td>{escaped(value)}</td>"


def chart(name: str, figure: go.Figure, *, log: bool = False) -> str:
    """A chart, drawn by the page's script; with a button that makes its axis logarithmic if ``log``."""
    # Inside a script element HTML knows no escapes: nothing there may look like its end.
    data = figure.to_json().replace("<", "\\u003c")
    button = f'<button type="button" data-log="{name}" aria-pressed="false">logarithmic axis</button>' if log else ""
    return (
        f'{button}<div class="plot" id="{name}" role="img" aria-label="{escaped(name)}"></div>'
        f'<script type="application/json" data-plot="{name}">{data}</script>'
    )


def gallery(pictures: Iterable[tuple[str, str, str, float]]) -> str:
    """Images with what they are: (address, true class, predicted class, confidence of 1) of each."""
    return f'<div class="gallery">{"".join(_figure(*picture) for picture in pictures)}</div>'


def _figure(address: str, true: str, predicted: str, confidence: float) -> str:
    kind = "right" if true == predicted else "wrong"
    told = f"{escaped(predicted)} {confidence:.0%}" + ("" if true == predicted else f"<br>is {escaped(true)}")
    alt = f"{true}, predicted {predicted}"
    return f'<figure class="{kind}"><img src="{address}" alt="{escaped(alt)}"><figcaption>{told}</figcaption></figure>'


def page(title: str, subtitle: str, sections: list[Section], *, live: bool = False) -> str:
    """The whole file. A ``live`` page asks where it came from for what has changed."""
    links = "".join(f'<a href="#{section.anchor}">{escaped(section.title)}</a>' for section in sections)
    parts = "".join(
        f'<section id="{section.anchor}"><h2>{escaped(section.title)}</h2>{section.content}</section>'
        for section in sections
    )
    asset = resources.files(__package__)
    style, script = (asset.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="distrib">
<link rel="icon" href="data:,">
<title>{escaped(title)}</title>
<style>{style}</style>
</head>
<body{" data-live" * live}>
<header><h1>{escaped(title)}</h1><p id="subtitle">{escaped(subtitle)}</p>
<button type="button" id="theme">light or dark</button></header>
<nav aria-label="sections">{links}</nav>
<main>{parts}</main>
<script>{get_plotlyjs()}</script>
<script>{script}</script>
</body>
</html>
"""
