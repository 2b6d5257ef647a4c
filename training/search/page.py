"""The page of a search: one HTML file that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from keras_preact.architecture import Architecture
from keras_preact.files import replacing
from training.net import recipe_architecture
from training.search.confirm import Confirmed, table_of_confirmed, verdict
from training.search.ranking import hyperparameters, pareto_front, table_of, values_of
from training.search.trials import Record, SearchFolder, results_of

_COLORS = "Viridis"
# Pixels in a drawing: a unit's width, the space after it and after a stage, and the widest stage.
_UNIT, _GAP, _BETWEEN, _HIGHEST = 7, 2, 6, 44
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; color: #222;
       padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
.wide { overflow-x: auto; }
svg rect { fill: #4f7cac; }
"""


@dataclass(frozen=True)
class Page:
    """What the page of a search shows.

    Attributes:
        title: Its heading.
        summary: A sentence below that.
        objective: The metric that trials are compared by.
        ranked: Finished trials, the best first.
        curves: For each of them the metric after each epoch.
        nets: For each of them the architecture.
        again: Nets that were trained with other seeds, the best mean first.
    """

    title: str
    summary: str
    objective: str
    ranked: Sequence[Record]
    curves: Sequence[Sequence[float]]
    nets: Sequence[Architecture]
    again: Sequence[Confirmed] = ()


def read_page(
    folder: SearchFolder,
    objective: str,
    title: str,
    summary: str,
    ranked: Sequence[Record],
    again: Sequence[Confirmed],
) -> Page:
    """Collect what the page of a search shows from its folder.

    Args:
        folder: Of the search.
        objective: The metric that trials are compared by.
        title: Heading of the page.
        summary: A sentence below it.
        ranked: Finished trials, the best first.
        again: Nets that were trained with other seeds, the best mean first.
    """
    return Page(
        title=title,
        summary=summary,
        objective=objective,
        ranked=ranked,
        curves=[results_of(folder.output / record.run, objective) for record in ranked],
        nets=[recipe_architecture(folder.read_recipe(each.trial)) for each in ranked],
        again=again,
    )


def write_page(path: Path, page: Page) -> None:
    """Write the page: plots that tell a trial's values where the pointer is, and the leaderboard.

    Args:
        path: The HTML file. It holds the script that draws the plots, 5 MB.
        page: What it shows.
    """
    plots = [_front(page), _parallel(page), _curves(page)]
    drawn = [
        plot.to_html(full_html=False, include_plotlyjs=not place, config={"displaylogo": False})
        for place, plot in enumerate(plots)
    ]
    title = html.escape(page.title)
    body = [f"<h1>{title}</h1>", f"<p>{html.escape(page.summary)}</p>", *_again(page), *drawn]
    body.append(_leaderboard(page))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    text = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n'
    with replacing(path) as partial:
        partial.write_text(text + "\n".join(body) + "\n</body></html>\n", encoding="utf-8")


def _results(page: Page) -> list[float]:
    return [record.results[page.objective] for record in page.ranked]


def _front(page: Page) -> go.Figure:
    """Draw the objective against FLOPs, with the Pareto front."""
    front = pareto_front(page.ranked, page.objective)
    flops = [record.flops / 1e6 for record in page.ranked]
    trials = go.Scatter(
        x=flops,
        y=_results(page),
        mode="markers",
        name="trials",
        text=[_name(record) for record in page.ranked],
        hovertemplate="%{text}<br>%{x:.2f} MFLOPs, %{y:.4f}<extra></extra>",
        marker={
            "color": [record.epochs for record in page.ranked],
            "colorscale": _COLORS,
            "colorbar": {"title": "epochs"},
            "size": 9,
        },
    )
    line = go.Scatter(
        x=[record.flops / 1e6 for record in front],
        y=[record.results[page.objective] for record in front],
        mode="lines",
        name="Pareto front",
        line={"shape": "hv", "color": "#b8560b"},
        hoverinfo="skip",
    )
    figure = go.Figure([line, trials])
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.15})
    return _titled(figure, "Cost and result", "million multiply-adds per image", page)


def _parallel(page: Page) -> go.Figure:
    """Draw every trial as a line through its values, its cost and its result."""
    names = hyperparameters(page.ranked)
    axes = [_axis(page.ranked, name) for name in names]
    axes += [
        {"label": "MFLOPs", "values": [record.flops / 1e6 for record in page.ranked]},
        {"label": page.objective, "values": _results(page)},
    ]
    lines = {"color": _results(page), "colorscale": _COLORS}
    figure = go.Figure(go.Parcoords(line=lines, dimensions=axes))
    figure.update_layout(title="Values of the trials", margin={"t": 110})
    return figure


def _axis(ranked: Sequence[Record], name: str) -> dict[str, Any]:
    """Return an axis of a hyperparameter, its values in order and evenly apart."""
    options = values_of(ranked, name)
    return {
        "label": name,
        "values": [options.index(record.values.get(name)) for record in ranked],
        "tickvals": list(range(len(options))),
        "ticktext": [str(option) for option in options],
    }


def _curves(page: Page) -> go.Figure:
    """Draw the objective after each epoch of every trial."""
    figure = go.Figure(
        [
            go.Scatter(
                x=list(range(1, len(curve) + 1)),
                y=list(curve),
                mode="lines+markers",
                name=f"trial {record.trial}",
                text=[_name(record)] * len(curve),
                hovertemplate="%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
            )
            for record, curve in zip(page.ranked, page.curves, strict=True)
        ]
    )
    return _titled(figure, "Training", "epoch", page)


def _titled(figure: go.Figure, title: str, below: str, page: Page) -> go.Figure:
    figure.update_layout(
        title=title,
        template="plotly_white",
        xaxis_title=below,
        yaxis_title=page.objective,
        hoverlabel={"align": "left"},
    )
    return figure


def _name(record: Record) -> str:
    values = [f"{name} {value}" for name, value in record.values.items()]
    return html.escape(f"trial {record.trial}: {', '.join(values)}")


def _leaderboard(page: Page) -> str:
    header, rows = table_of(page.ranked, page.objective)
    cells = [
        [*map(html.escape, row), drawing(net)] for row, net in zip(rows, page.nets, strict=True)
    ]
    return f"<h2>Leaderboard</h2>\n{_table([*header, 'net'], cells)}"


def _again(page: Page) -> list[str]:
    if not page.again:
        return []
    heading = "<h2>Trained again, with other seeds</h2>"
    return [heading, f"<p>{verdict(page.again)}</p>", _table(*table_of_confirmed(page.again))]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table whose cells are HTML."""
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in header)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{body}</table></div>'


def drawing(net: Architecture) -> str:
    """Draw a net as SVG: a bar for each unit, as high as the unit is wide.

    Args:
        net: The architecture.

    Returns:
        The element; pointed at, it tells units and channels of each stage.
    """
    scale = _HIGHEST / max(net.channels)
    bars, left = [], 0
    for units, channels in zip(net.units, net.channels, strict=True):
        height = max(1, round(scale * channels))
        for _ in range(units):
            top = _HIGHEST - height
            bars.append(f'<rect x="{left}" y="{top}" width="{_UNIT}" height="{height}"/>')
            left += _UNIT + _GAP
        left += _BETWEEN
    stages = ", ".join(
        f"{units} x {channels}" for units, channels in zip(net.units, net.channels, strict=True)
    )
    title = f"{net.unit}: {stages}"
    size = f'width="{left}" height="{_HIGHEST}"'
    return (
        f'<svg {size} role="img" aria-label="{title}"><title>{title}</title>{"".join(bars)}</svg>'
    )
