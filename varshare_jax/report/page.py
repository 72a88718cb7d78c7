"""The report as one HTML page that needs nothing but itself."""

import base64
import html
import string
from collections.abc import Iterator, Sequence

from varshare_jax.report import figures, tables
from varshare_jax.report.sections import Section
from varshare_jax.report.tables import Cell, Table

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
<h1>$title</h1>
<p>$subtitle</p>
$navigation
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
nav a { color: var(--accent); margin-right: 18px; }
ul.notes { margin: 8px 0 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 13px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; white-space: normal; font-weight: 600; color: var(--muted);
  border-bottom: 2px solid #b6bcc6; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tbody th { font-weight: 500; }
tbody tr:hover > * { background-color: #f4f7fa; }
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
.legend svg { vertical-align: middle; margin-right: 7px; }
@media (max-width: 640px) {
  body { padding: 0 14px 36px; }
  header { padding-top: 20px; }
  .panels { grid-template-columns: repeat(2, 1fr); }
  th, td { padding: 6px 9px; }
}
@media print { .scroll { overflow: visible; } body { max-width: none; } }
"""

_HEADLINE = ("Return of the final evaluation. IQM: mean of the middle half of all seeds × tasks, "
             "in brackets its 95&nbsp;% stratified bootstrap interval (Agarwal et al. 2021). "
             "Worst task: the task with the lowest mean over seeds. Active parameters are read "
             "by one task's forward pass, stored ones by all tasks. Env steps are per seed, "
             "summed over tasks.")
_SPECIALIZATION = {
    "shift": ("nats that each task pays for its shift",
              "The part of the KL divergence that comes from the posterior means, Σ μ² / "
              "(2 σ_prior²): what each task departs from the shared weights, layer by layer; mean "
              "over seeds at the last logged update."),
    "kl": ("KL divergence from the prior, in nats",
           "The whole divergence of each task's posterior, its spread included, layer by layer; "
           "mean over seeds at the last logged update."),
    "l2": ("Squared norm of the residuals",
           "How far each task's weights lie from the shared ones, layer by layer; mean over "
           "seeds at the last logged update."),
}
_LIGHT, _DARK = (247, 250, 253), (8, 69, 138)


def render(sections: Sequence[Section]) -> str:
    """The page of all sections."""
    runs = sum(len(section.entries) for section in sections)
    subtitle = (f"{runs} {'run' if runs == 1 else 'runs'} on "
                f"{', '.join(section.suite for section in sections)}")
    links = "".join(f'<a href="#suite-{i}">{html.escape(section.suite)}</a>'
                    for i, section in enumerate(sections))
    content = [part for i, section in enumerate(sections) for part in _section(section, i)]
    if known := tables.environment(sections):
        content += ["<h2>Versions and devices</h2>", _table(known, "text")]
    return _PAGE.substitute(
        title="Multi-task training report", css=_CSS, subtitle=html.escape(subtitle),
        navigation=f"<nav>{links}</nav>" if len(sections) > 1 else "",
        content="\n".join(content))


def _section(section: Section, index: int) -> Iterator[str]:
    yield f'<h2 id="suite-{index}">{html.escape(section.suite)}</h2>'
    yield f'<h3>Results</h3><p class="about">{_HEADLINE}</p>'
    yield _table(tables.headline(section))
    yield "<h3>Learning curves</h3>"
    if any(len(entry.steps) for entry in section.scored):
        yield from _curves(section)
    else:
        yield "<p>No evaluation during training has been logged.</p>"
    if section.scored:
        yield "<h3>Final return of each task</h3>"
        yield '<p class="about">Mean over seeds ± standard deviation; the best is bold.</p>'
        yield _table(tables.per_task(section))
    yield from _specialization(section)
    if len(section.entries) > 1:
        differences = tables.config_differences(section)
        yield "<h3>Differences between the configurations</h3>"
        yield _table(differences, "text") if differences else "<p>None but the method.</p>"


def _curves(section: Section) -> Iterator[str]:
    yield ('<p class="about">IQM of the return over tasks and seeds; bands are 95&nbsp;% '
           "stratified bootstrap intervals.</p>")
    yield _image(figures.to_svg(figures.learning_curves([section])),
                 f"Learning curves on {section.suite}", "wide")
    if len(section.task_names) < 2:
        return
    yield "<h3>Learning curves of each task</h3>"
    yield ('<p class="about">Mean return over seeds ± standard deviation against environment '
           "steps.</p>")
    yield _legend(section)
    panels = (_image(figures.to_svg(figures.task_curve(section, task)),
                     f"Learning curves on task {name}")
              for task, name in enumerate(section.task_names))
    yield f'<div class="panels">{"".join(panels)}</div>'


def _specialization(section: Section) -> Iterator[str]:
    for prefix, (title, about) in _SPECIALIZATION.items():
        found = [(entry, tables.specialization(entry.run, prefix, section.task_names))
                 for entry in section.entries]
        found = [(entry, table) for entry, table in found if table]
        if found:
            yield f'<h3>Specialization: {title}</h3><p class="about">{about}</p>'
        for entry, table in found:
            yield f"<h4>{html.escape(entry.label)}</h4>" + _table(table, "heat")


def _table(table: Table, kind: str = "") -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row[0].text)}</th>{"".join(map(_cell, row[1:]))}</tr>'
        for row in table.rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
            + (f'<ul class="notes">{notes}</ul>' if notes else ""))


def _cell(cell: Cell) -> str:
    attributes = ' class="strong"' if cell.strong else ""
    if cell.shade is not None:
        mixed = (round(a + (b - a) * cell.shade) for a, b in zip(_LIGHT, _DARK, strict=True))
        ink = "#fff" if cell.shade > 0.65 else "#111827"
        attributes += f' style="background-color: rgb{tuple(mixed)}; color: {ink}"'
    return f"<td{attributes}>{html.escape(cell.text)}</td>"


def _legend(section: Section) -> str:
    items = []
    for entry in section.scored:
        color, dashes, _ = figures.style_of(entry)
        pattern = " ".join(f"{2.4 * length:g}" for length in dashes)
        items.append(
            f'<li><svg width="44" height="10" aria-hidden="true"><line x1="0" y1="5" x2="44" '
            f'y2="5" stroke="{color}" stroke-width="2.4" stroke-dasharray="{pattern or "none"}"/>'
            f"</svg>{html.escape(entry.label)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _image(svg: bytes, description: str, kind: str = "") -> str:
    # As an image each SVG keeps its ids to itself; inline they would clash.
    data = base64.b64encode(svg).decode()
    return (f'<img class="{kind}" alt="{html.escape(description)}" '
            f'src="data:image/svg+xml;base64,{data}">')
