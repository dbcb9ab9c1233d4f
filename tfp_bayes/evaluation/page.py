"""The HTML page of an evaluation: one file with embedded pictures and without scripts."""

import base64
import html
import io
from itertools import groupby
from typing import TYPE_CHECKING

from tfp_bayes.evaluation.pictures import Picture, pictures

if TYPE_CHECKING:
    from tfp_bayes.evaluation.report import Evaluation

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #1a1a1a; }
tbody tr:nth-child(even) { background: #f3f3f3; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-end; }
figure { margin: 0; max-width: 100%; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 13px; }
.notes { color: #333; font-size: 14px; }
"""


def page(evaluation: "Evaluation") -> str:
    """Returns the HTML of an evaluation."""
    title = "Evaluation of " + ", ".join(evaluation.models)
    sections = []
    for model, group in groupby(_sorted(evaluation), lambda picture: picture.model):
        heading = f"<h2>{html.escape(model or 'All models')}</h2>"
        figures = "\n".join(map(_figure, group))
        sections.append(f'{heading}\n<div class="pictures">\n{figures}\n</div>')
    notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in evaluation.notes)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{html.escape(title)}</h1>",
            f'<div class="wide">\n{_table(evaluation)}\n</div>',
            f'<ul class="notes">\n{notes}\n</ul>',
            *sections,
            "</body>\n</html>\n",
        ]
    )


def _sorted(evaluation: "Evaluation") -> list[Picture]:
    """Returns the pictures of all models first, then those of each model in table order."""
    order = ("", *evaluation.models)
    return sorted(pictures(evaluation.pictured), key=lambda picture: order.index(picture.model))


def _table(evaluation: "Evaluation") -> str:
    header, rows = evaluation.cells()
    lines = [f"<thead><tr>{_row(header, 'th')}</tr></thead>", "<tbody>"]
    lines += [f"<tr>{_row(row, 'td')}</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</tbody>\n</table>"


def _row(cells: list[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)


def _figure(picture: Picture) -> str:
    file = io.BytesIO()
    picture.figure.savefig(file, format="png", dpi=100)
    data = base64.b64encode(file.getvalue()).decode()
    caption = html.escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
