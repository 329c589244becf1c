"""report.html in a real browser. Oracle: the page's own tables, sorted here by Python."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fl.output.html.page import Page, SortableTable

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=3000"),
)
VALUES = [10.0, 9.0, None, float("inf"), 1e-7, -1.0, -2.0, float("-inf")]
NAMES = ["b10", "b9", "a", "", "c", "d", "e", "f"]
# Run by the page after its own script: what a reader does with the mouse, and the policy's objection to a request.
PROBE = """<script>
const heads = document.querySelectorAll("th button");
const column = at => Array.from(document.querySelectorAll("tbody tr"), row => row.cells[at].dataset.value).join("|");
const told = {start: column(0)};
heads[0].click(); told.up = column(0); told.first = heads[0].parentNode.getAttribute("aria-sort");
heads[0].click(); told.down = column(0); told.again = heads[0].parentNode.getAttribute("aria-sort");
heads[1].click(); told.words = column(1); told.cleared = String(heads[0].parentNode.getAttribute("aria-sort"));
told.requests = performance.getEntriesByType("resource").filter(each => !each.name.startsWith("data:")).length;
document.addEventListener("securitypolicyviolation", event => {
  document.body.dataset.refused = event.blockedURI;
});
new Image().src = "http" + "://127.0.0.1:9/outside.png";
for (const [name, text] of Object.entries(told)) document.body.dataset[name] = text;
</script></body>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """A Chromium; skipped without one."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip("no browser: on Debian and Ubuntu the package is chromium (make browser)")
    return found


def dom(browser: str, page: Path, profile: Path) -> str:
    """The document after its scripts, as the browser writes it."""
    words = [browser, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    environment = {**os.environ, "HOME": str(profile)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert done.stdout.rstrip().endswith("</html>"), done.stderr[-2000:]
    return done.stdout


def test_a_click_sorts_and_nothing_leaves(browser: str, tmp_path: Path) -> None:
    """A click sorts up, another down, infinite numbers at the ends, empty cells always last; words sort with their numbers
    as numbers (b9 before b10). The page loads nothing, and its policy refuses an image from elsewhere."""
    table = SortableTable.of("Rounds", {"value": VALUES, "name": NAMES})
    text = Page("run", tables=[table]).html()
    page = tmp_path / "probe.html"
    page.write_text(text.replace("</body>", PROBE))
    (body,) = re.findall(r"<body ([^>]*)>", dom(browser, page, tmp_path / "profile"))
    told = dict(re.findall(r'data-(\w+)="([^"]*)"', body))
    known = sorted(value for value in VALUES if value is not None)
    assert _numbers(told["start"]) == VALUES
    assert _numbers(told["up"]) == [*known, None]
    assert _numbers(told["down"]) == [*reversed(known), None]
    assert (told["first"], told["again"], told["cleared"]) == ("ascending", "descending", "null")
    assert told["words"] == "a|b9|b10|c|d|e|f|"
    assert told["requests"] == "0"
    assert told["refused"].startswith("http")


def _numbers(text: str) -> list[float | None]:
    return [float(word) if word else None for word in text.split("|")]
