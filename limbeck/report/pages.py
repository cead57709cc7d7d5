"""Pages that need nothing else: no file, font or script is fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

LAYOUT: dict[str, Any] = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 64, "r": 16, "t": 48, "b": 48},
    "height": 320,
}
"""What every chart has; ink and grid are the page's."""
WHISKERS: dict[str, Any] = {"type": "data", "symmetric": False, "color": "#7f7f7f"}


def filled(template: str, charts: Sequence[tuple[str, go.Figure]], values: dict[str, Any]) -> str:
    """A page of this package, with charts: each with what a screen reader says of it."""
    environment = Environment(
        loader=PackageLoader("limbeck.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    figures = json.dumps([json.loads(figure.to_json()) for _, figure in charts])
    drawn = {
        "charts": [said for said, _ in charts],
        # Inside a script a closing tag would end it, and a comment with an opening tag would keep it from ending,
        # whatever quotes they stand in.
        "figures": figures.replace("<", "\\u003c"),
        "plotly": get_plotlyjs(),
    }
    return environment.get_template(template).render(drawn | values)
