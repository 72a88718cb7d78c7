"""HTML of the report: the frame of the page, tables and images. All text is escaped here."""

import base64
import html
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from varshare_jax.report.table import Cell, Table

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$css</style>
</head>
<body>
<header>
$heading
<p>$subtitle</p>
$contents
</header>
<main>
$content
</main>
</body>
</html>
""")

_CSS = """
:root { --ink: #1f2937; --muted: #5b6472; --line: #e2e5ea; --accent: #0b5c8f; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 0 28px 56px; color: var(--ink);
  background: #fff; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
header { padding: 32px 0 14px; border-bottom: 3px solid var(--accent); }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.25; }
h2 { margin: 44px 0 0; font-size: 1.4rem; overflow-wrap: anywhere; }
h3 { margin: 32px 0 6px; font-size: 1.08rem; }
h4 { margin: 18px 0 6px; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 4px 0 12px; max-width: 100ch; overflow-wrap: anywhere; }
header p, p.about, ul.notes { color: var(--muted); font-size: .9rem; }
nav { font-size: .9rem; columns: 3 260px; column-gap: 26px; }
nav ul { margin: 0; padding: 0 0 0 16px; list-style: none; }
nav > ul { padding: 0; }
nav a { color: var(--accent); text-decoration: none; overflow-wrap: anywhere; }
nav a:hover { text-decoration: underline; }
aside { margin: 14px 0; padding: 10px 16px; border-left: 5px solid #d55e00;
  background: #fdf3ec; max-width: 100ch; overflow-wrap: anywhere; }
aside ul { margin: 0; padding: 0 0 0 18px; }
details { margin: 4px 0 12px; }
summary { color: var(--accent); cursor: pointer; font-size: .9rem; }
ul.notes { margin: 8px 0 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; white-space: normal; font-weight: 600; color: var(--muted);
  border-bottom: 2px solid #b6bcc6; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tbody th { font-weight: 500; }
tbody tr:hover > * { background-color: #f4f7fa; }
table.dense { font-size: .8rem; }
table.dense th, table.dense td { padding: 6px 7px; }
td.strong { font-weight: 700; }
table.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.text thead th { text-align: left; }
table.heat td { padding: 6px 10px; border: 2px solid #fff; min-width: 74px; }
img { display: block; max-width: 100%; height: auto; }
img.wide { width: 760px; }
.panels { display: grid; gap: 10px 14px; grid-template-columns:
  repeat(auto-fill, minmax(215px, 1fr)); }
.panels img { width: 100%; max-width: 320px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 2px 0 10px; padding: 0;
  list-style: none; font-size: .9rem; }
img.key { display: inline-block; width: 48px; height: 13px; margin-right: 7px;
  vertical-align: middle; }
.figures { display: grid; gap: 10px 26px; align-items: start; grid-template-columns:
  repeat(auto-fill, minmax(min(100%, 540px), 1fr)); }
.maps { display: grid; gap: 10px 22px; align-items: start; grid-template-columns:
  repeat(auto-fill, minmax(min(100%, 500px), 1fr)); }
.maps img { width: 100%; max-width: 600px; }
.series { display: grid; gap: 10px 14px; align-items: start; margin: 10px 0 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 225px), 1fr)); }
.series img { width: 100%; max-width: 330px; }
.figures img { width: 100%; max-width: 620px; }
@media (max-width: 640px) {
  body { padding: 0 14px 36px; }
  header { padding-top: 20px; }
  .panels { grid-template-columns: repeat(2, 1fr); }
  th, td { padding: 6px 9px; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 13px; }
  .scroll { overflow: visible; }
  th, td { padding: 3px 6px; }
  h2, h3, h4, summary, p.about, .legend { break-after: avoid; }
  img, tr, aside, nav li { break-inside: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""

_ROOMY = 9  # columns that fit beside one another at full size
_LIGHT, _DARK = (247, 250, 253), (8, 69, 138)


class Heading(NamedTuple):
    """A heading of level 2 or 3, to which the contents link.

    `anchor` names it in links where its text depends on more than what it is about.
    """

    level: int
    text: str
    anchor: str = ""


class _Linked(NamedTuple):
    """A heading of the page and the id that it has there."""

    level: int
    text: str
    anchor: str

    @property
    def link(self) -> str:
        return f'<a href="#{self.anchor}">{html.escape(self.text)}</a>'

    def __str__(self) -> str:
        return (f'<h{self.level} id="{self.anchor}">{html.escape(self.text)}</h{self.level}>')


def page(title: str, subtitle: str, content: Iterable[str | Heading]) -> str:
    """The whole page, its contents above it; `content` is headings and HTML."""
    top, *parts = _linked([Heading(1, title, "top"), *content])
    headings = [part for part in parts if isinstance(part, _Linked)]
    return _PAGE.substitute(
        title=html.escape(title), css=_CSS, heading=top, subtitle=html.escape(subtitle),
        contents=_contents(headings), content="\n".join(map(str, parts)))


def _linked(content: Iterable[str | Heading]) -> Iterator[str | _Linked]:
    """Headings with ids: those of level 3 carry their section's, equal ones are numbered."""
    taken, section = set(), ""
    for part in content:
        if not isinstance(part, Heading):
            yield part
            continue
        name = _slug(part.anchor or part.text)
        name = f"{section}.{name}" if part.level > 2 and section else name
        anchor, number = name, 1
        while anchor in taken:
            number += 1
            anchor = f"{name}.{number}"
        taken.add(anchor)
        section = anchor if part.level == 2 else section
        yield _Linked(part.level, part.text, anchor)


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-") or "section"


def _contents(headings: Sequence[_Linked]) -> str:
    """A list of links, those of level 3 below the heading of level 2 before them."""
    items: list[tuple[str, list[str]]] = []
    for heading in headings:
        if heading.level == 2 or not items:
            items.append((heading.link, []))
        else:
            items[-1][1].append(f"<li>{heading.link}</li>")
    lists = ("".join(["<ul>", *below, "</ul>"]) if below else "" for _, below in items)
    listed = "".join(f"<li>{link}{below}</li>"
                     for (link, _), below in zip(items, lists, strict=True))
    return f'<nav aria-label="Contents"><ul>{listed}</ul></nav>' if items else ""


def subheading(text: str) -> str:
    """A heading of level 4, which the contents leave out."""
    return f"<h4>{html.escape(text)}</h4>"


def banner(texts: Sequence[str]) -> str:
    """What a reader must know first; empty without texts."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<aside><ul>{items}</ul></aside>" if items else ""


def folded(summary: str, content: str) -> str:
    """Content that is shown on request, and in print."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def about(text: str) -> str:
    """What a section shows and how to read it."""
    return f'<p class="about">{html.escape(text)}</p>'


def side_by_side(parts: Iterable[str], kind: str) -> str:
    """Parts in a grid whose columns depend on the width of the window."""
    return f'<div class="{kind}">{"".join(parts)}</div>'


def legend(keys: Iterable[tuple[bytes, str]]) -> str:
    """Pieces of line (SVG) and what they stand for."""
    items = "".join(f"<li>{image(svg, '', 'key')}{html.escape(label)}</li>"
                    for svg, label in keys)
    return f'<ul class="legend">{items}</ul>'


def table(content: Table, kind: str = "") -> str:
    """A table; kind is \"text\" or \"heat\" where it is not one of numbers."""
    head = "".join(f'<th scope="col">{_breakable(column)}</th>' for column in content.columns)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row[0].text)}</th>{"".join(map(_cell, row[1:]))}</tr>'
        for row in content.rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in content.notes)
    kind += " dense" if len(content.columns) > _ROOMY else ""
    return (f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
            + (f'<ul class="notes">{notes}</ul>' if notes else ""))


def _breakable(name: str) -> str:
    """Long names may go on in the next line after an underscore."""
    return html.escape(name).replace("_", "_<wbr>")


def image(svg: bytes, description: str, kind: str = "") -> str:
    """An SVG inside the page."""
    # As an image each SVG keeps its ids to itself; inline they would clash.
    data = base64.b64encode(svg).decode()
    return (f'<img class="{kind}" alt="{html.escape(description)}" '
            f'src="data:image/svg+xml;base64,{data}">')


def _cell(cell: Cell) -> str:
    attributes = ' class="strong"' if cell.strong else ""
    if cell.shade is not None:
        mixed = (round(a + (b - a) * cell.shade) for a, b in zip(_LIGHT, _DARK, strict=True))
        ink = "#fff" if cell.shade > 0.65 else "#111827"
        attributes += f' style="background-color: rgb{tuple(mixed)}; color: {ink}"'
    return f"<td{attributes}>{html.escape(cell.text)}</td>"
