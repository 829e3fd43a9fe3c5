"""A page that stands on its own: texts, tables, pictures, interactive plots; one file, readable without a network."""

import base64
import functools
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mnist_sweep

_TEMPLATES = Path(mnist_sweep.__file__).parent / "pages"


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        id: on the page.
        caption: below it.
        png: base64; empty for an interactive plot.
    """

    id: str
    caption: str
    png: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page; what is empty is left out.

    Attributes:
        id: on the page.
        title: above it.
        texts: paragraphs.
        commands: to be copied.
        header, rows: a table.
        numbers: the columns that hold numbers.
        pictures: at its end.
    """

    id: str
    title: str
    texts: Sequence[str] = ()
    commands: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    numbers: Sequence[int] = ()
    pictures: Sequence[Picture] = field(default_factory=tuple)


def page(title: str, facts: Sequence[str], sections: Sequence[Section], plots: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
        title: above it.
        facts: lines below the title, the most important first.
        sections: in order.
        plots: plotly figures by the id of their picture.
    """
    from jinja2 import Environment, FileSystemLoader

    template = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True).get_template("report.html")
    drawn = {name: json.loads(figure.to_json()) for name, figure in plots.items()}
    # a "<" within a JSON text could end the script element that holds it
    packed = json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c")
    return template.render(
        title=title, facts=facts, sections=sections, plots=packed if drawn else "", plotly=_plotly() if drawn else ""
    )


def png(figure: Any) -> str:
    """A matplotlib figure as PNG, base64."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return encoded(file.getvalue())


def encoded(content: bytes) -> str:
    """Base64."""
    return base64.b64encode(content).decode()


@functools.cache
def _plotly() -> str:
    """plotly.js, compressed, base64: 1.9 MB instead of 4.8."""
    from plotly.offline import get_plotlyjs

    return encoded(gzip.compress(get_plotlyjs().encode(), 9, mtime=0))
