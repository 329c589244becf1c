"""The page itself: HTML for jinja2, its style, and the few lines of script that sort a table.

The policy in its head forbids the browser to load anything, so the page reads the same in ten years and in a locked room.
"""

STYLE = """
:root { --ink: #1f2933; --soft: #5d6975; --line: #e3e7eb; --card: #f2f5f8; --blue: #2463a6; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 28px 24px 60px; color: var(--ink); background: #fff;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 26px; overflow-wrap: anywhere; }
h2 { margin: 40px 0 10px; font-size: 19px; }
p { max-width: 80ch; }
.soft { color: var(--soft); margin: 4px 0 20px; }
nav a { color: var(--blue); margin-right: 16px; text-decoration: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin: 20px 0 4px; }
.card { background: var(--card); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 25px; line-height: 1.3; }
.card span { color: var(--soft); font-size: 13px; }
figure { margin: 0; }
figure img { width: 100%; border: 1px solid var(--line); border-radius: 8px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(560px, 100%), 1fr)); gap: 16px; }
.wide { grid-column: 1 / -1; }
.scroll { overflow: auto; max-height: 560px; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: var(--card); text-align: left; white-space: nowrap; padding: 0; }
th button { all: unset; cursor: pointer; padding: 7px 12px; width: 100%; box-sizing: border-box; }
th button:focus-visible { outline: 2px solid var(--blue); outline-offset: -2px; }
th button::after { content: " \\2195"; color: #a9b3bd; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--blue); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--blue); }
td { padding: 5px 12px; border-top: 1px solid var(--line); }
td.number, th.number { text-align: right; }
"""

SCRIPT = """
"use strict";
const valueOf = (row, column) => row.cells[column].dataset.value;
function sortBy(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  const rows = Array.from(body.rows);
  const isNumber = rows.every(row => valueOf(row, column) === "" || !isNaN(valueOf(row, column)));
  rows.sort((one, other) => {
    const a = valueOf(one, column), b = valueOf(other, column);
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = isNumber ? Number(a) - Number(b) : a.localeCompare(b, "en", {numeric: true});
    return up ? order : -order;
  });
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
}
for (const head of document.querySelectorAll("th")) {
  head.querySelector("button").addEventListener("click", () => sortBy(head));
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ page.title }}</h1>
<p class="soft">{{ page.subtitle }}</p>
<nav>{% if page.pictures %}<a href="#figures">Figures</a>{% endif %}
{%- for table in page.tables %}<a href="#table{{ loop.index }}">{{ table.title }}</a>{% endfor %}</nav>
{% if page.cards %}<div class="cards">
{% for caption, value, small in page.cards -%}
<div class="card"><span>{{ caption }}</span><b>{{ value }}</b><span>{{ small }}</span></div>
{% endfor %}</div>{% endif %}
</header>
<main>
{% for text in page.notes %}<p>{{ text }}</p>
{% endfor %}
{%- if page.pictures %}<h2 id="figures">Figures</h2>
<div class="pictures">
{% for picture in page.pictures -%}
<figure{% if picture.wide %} class="wide"{% endif %}><img alt="{{ picture.caption }}" title="{{ picture.caption }}"
 src="data:image/png;base64,{{ picture.base64 }}"></figure>
{% endfor %}</div>{% endif %}
{% for table in page.tables %}
<h2 id="table{{ loop.index }}">{{ table.title }}</h2>
{% if table.note %}<p class="soft">{{ table.note }}</p>{% endif %}
<div class="scroll"><table>
<thead><tr>
{%- for name in table.header %}<th{% if table.numeric[loop.index0] %} class="number"{% endif %}>
<button>{{ name }}</button></th>{% endfor -%}
</tr></thead>
<tbody>
{% for row in table.rows %}<tr>
{%- for cell in row %}<td{% if table.numeric[loop.index0] %} class="number"{% endif %} data-value="{{ cell.data }}">
{{- cell.text }}</td>{% endfor -%}
</tr>
{% endfor %}</tbody>
</table></div>
{% endfor %}
</main>
<script>{{ script }}</script>
</body>
</html>
"""
