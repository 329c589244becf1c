"""The page of a run. Oracles: the numbers and names of a small run folder made by hand; HTML's own parser."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl.output.figures.run_data import RunData
from fl.output.html.page import MOST_ROWS, Cell, Page, Picture, SortableTable
from fl.output.html.run_page import write_run_page
from fl.output.report import write_report
from tests.support import run_here

COLUMNS = ("round", "time_s", "val_accuracy", "test_accuracy", "virtual_time_s")
BYTES = ("uplink_bytes", "downlink_bytes", "uplink_dense_bytes", "downlink_dense_bytes")


@pytest.fixture
def run() -> RunData:
    """Three rounds: 1, 2 and 3 MB up, 4 MB down each, dense 12 MB a round either way; no virtual time."""
    rounds = np.arange(3.0)
    metrics = {name: np.full(3, np.nan) for name in COLUMNS} | {name: np.full(3, 4e6) for name in BYTES}
    metrics |= {"round": rounds, "time_s": rounds + 1, "val_accuracy": np.array([0.5, np.nan, 0.75])}
    metrics |= {"uplink_bytes": (rounds + 1) * 1e6, "uplink_dense_bytes": np.full(3, 12e6)}
    config = {"model": "lenet5", "rounds": 3, "uplink": "sign", "server": "fedavg"}
    return RunData("<b>run</b>", config, metrics, None, clients=2, ranks=1)


class _Seen(HTMLParser):
    """Tags, their attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def picture(path: Path, width: int = 3000, height: int = 1500) -> Path:
    Image.new("RGB", (width, height), "white").save(path)
    return path


def test_everything_is_in_one_file(run: RunData, tmp_path: Path) -> None:
    """Each figure is a data URL that decodes to a PNG; no address of any kind stands in the page, and its policy
    forbids loading; names are escaped."""
    figures = [Picture.of(picture(tmp_path / f"{name}.png"), name) for name in ("dashboard", "layers")]
    path = write_run_page(tmp_path, run, figures)
    text = path.read_text()
    assert path.name == "report.html"
    seen = _Seen(text)
    sources = [attrs["src"] for tag, attrs in seen.tags if tag == "img"]
    assert len(sources) == 2
    for source in sources:
        assert source is not None
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (1500, 750)
    assert re.search(r"https?://|//[a-z]|url\(|@import|file:", re.sub(r"base64,[^\"]*", "", text)) is None
    assert {tag for tag, attrs in seen.tags if "src" in attrs or "href" in attrs} == {"img", "a"}
    assert all(attrs["href"].startswith("#") for tag, attrs in seen.tags if tag == "a" and attrs["href"])
    assert "<b>run</b>" in seen.words
    assert "<b>run" not in text
    assert "default-src 'none'" in text


def test_the_figures_of_the_run(run: RunData, tmp_path: Path) -> None:
    """6 MB up where dense takes 36: six times fewer. A column that is empty throughout is not shown; an empty cell is
    empty. Of the options, what differs from its default is marked."""
    (tmp_path / "summary.json").write_text('{"final_test_accuracy": 0.7, "device": "<cpu>"}')
    (tmp_path / "clients.csv").write_text(
        "round,client,samples,train_s,uplink_bytes,downlink_bytes\n0,1,10,0.5,100,7\n1,1,10,0.25,200,7\n1,0,5,,50,7\n1,0"
    )
    text = write_run_page(tmp_path, run, []).read_text()
    tables = dict(_tables(text))
    assert list(tables) == ["Bytes", "Rounds", "Clients", "Summary", "Options"]
    assert tables["Bytes"][1] == ["uplink", "6,000,000", "36,000,000", "6"]
    assert tables["Bytes"][2] == ["downlink", "12,000,000", "12,000,000", "1"]
    assert "virtual_time_s" not in tables["Rounds"][0]
    assert [row[tables["Rounds"][0].index("val_accuracy")] for row in tables["Rounds"][1:]] == ["0.5", "", "0.75"]
    assert tables["Clients"][1:] == [["0", "1", "5", "0", "50", "7"], ["1", "2", "20", "0.75", "300", "14"]]
    assert ["device", "<cpu>"] in tables["Summary"]
    changed = {row[0]: row[3] for row in tables["Options"][1:]}
    assert (changed["uplink"], changed["server"]) == ("changed", "")


def _tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """Title and rows of text, the header first, of every table."""
    found = []
    for title, body in re.findall(r"<h2 id=\"table\d+\">(.*?)</h2>(.*?)</table>", text, re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
        cells = [re.findall(r"<(?:button|td[^>]*)>(.*?)</(?:button|td)>", row, re.DOTALL) for row in rows]
        found.append((title, [[cell.replace("&lt;", "<").replace("&gt;", ">") for cell in row] for row in cells]))
    return found


@pytest.mark.slow
def test_a_real_run_has_its_page(tmp_path: Path) -> None:
    """Its checksum, its two clients, and two figures: the dashboard, and which classes were taken for which."""
    summary = run_here(tmp_path, "run", rounds=2, clients=2, local_steps=1)
    write_report(tmp_path / "run")
    text = (tmp_path / "run" / "report.html").read_text()
    tables = dict(_tables(text))
    assert ["model_sha256", summary["model_sha256"]] in tables["Summary"]
    assert [row[0] for row in tables["Clients"][1:]] == ["0", "1"]
    assert text.count("data:image/png;base64,") == 2
    assert len(text) < 3_000_000


@pytest.mark.parametrize(
    ("value", "text", "sorts_by"),
    [
        (1234567, "1,234,567", 1234567.0),
        (0.123456, "0.1235", 0.123456),
        (0.0000012, "1.2e-06", 0.0000012),
        (2.0, "2", 2.0),
        (float("nan"), "", ""),
        (None, "", ""),
        ("topk:0.01", "topk:0.01", "topk:0.01"),
        (True, "True", "True"),
    ],
)
def test_a_cell_is_short_and_sorts_by_all_its_digits(value: object, text: str, sorts_by: object) -> None:
    """By hand."""
    cell = Cell.of(value)
    assert (cell.text, cell.value) == (text, sorts_by)


def test_infinite_numbers_sort_as_numbers() -> None:
    """JavaScript's `Number` reads Infinity, and not Python's inf; a word stays what it is, and so does the text."""
    table = SortableTable.of(
        "Rounds", {"value": [float("inf"), 2.5, float("-inf"), None], "name": ["inf", "a", "b", "c"]}
    )
    text = Page("run", tables=[table]).html()
    cells = re.findall(r'<td( class="number")? data-value="([^"]*)">([^<]*)</td>', text)
    sorted_by = [("Infinity", "inf"), ("2.5", "2.5"), ("-Infinity", "-inf"), ("", "")]
    assert cells[::2] == [(' class="number"', *pair) for pair in sorted_by]
    assert cells[1] == ("", "inf", "inf")


def test_a_long_table_is_thinned_and_says_so() -> None:
    """2,500 rounds: every third, and the last."""
    table = SortableTable.of("Rounds", {"round": list(range(2500))}, "Columns.")
    rounds = [row[0].value for row in table.rows]
    assert rounds[:3] == [0, 3, 6]
    assert rounds[-1] == 2499
    assert len(rounds) <= MOST_ROWS + 1
    assert "Every 3 rows of 2,500" in table.note
    assert SortableTable.of("Nothing", {}).rows == []


def test_a_picture_is_made_small(tmp_path: Path) -> None:
    """Noise, which nothing compresses: at most 1,500 pixels wide, so of 3,001 by 400 every third, and 128 colours: at most 8
    bits a pixel, and 4/3 as many in base 64. A small picture keeps its size."""
    noise = np.random.default_rng(0).integers(0, 255, (400, 3001, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    found = Picture.of(tmp_path / "noise.png", "noise")
    with Image.open(io.BytesIO(base64.b64decode(found.base64))) as image:
        assert image.size == (1001, 134)
    assert len(found.base64) < 1001 * 134 * 4 / 3 * 1.05
    with Image.open(io.BytesIO(base64.b64decode(Picture.of(picture(tmp_path / "a.png", 9, 7), "").base64))) as image:
        assert image.size == (9, 7)
    assert f"base64,{found.base64}" in Page("noise", pictures=[found]).html()
