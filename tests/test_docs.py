"""The pages of the documentation. Oracles: the parsers of the commands that they show, and the site's own strict build."""

import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from fl.__main__ import PROGRAMS
from fl.common.errors import ConfigError
from fl.run.cli import parse
from tests.support import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OURS = {"leanfed", "main.py", "main_resnet50.py"}


def _blocks(page: Path, kind: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == kind]


def _commands(page: Path) -> Iterator[list[str]]:
    """The words of every command that a page shows, without comments, variables and what stands behind it."""
    for block in _blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            ends = [at for at, word in enumerate(words) if re.fullmatch(r"[&|;>]+", word)]
            yield words[: min(ends, default=len(words))]


def _check(words: Sequence[str]) -> None:
    """ConfigError or SystemExit where the program that the first word names, or else a run, does not take the words."""
    if words[:1] == ["deploy"]:
        parse(words[1:-1])
    elif words[:1] and words[0] in PROGRAMS:
        parser = importlib.import_module(PROGRAMS[words[0]].partition(":")[0]).make_parser()
        if words[0] == "advise":
            parse(parser.parse_known_args(words[1:])[1])
        else:
            parser.parse_args(words[1:])
    else:
        parse([word for word in words if word != "--print_config"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands(page: Path) -> None:
    """Every option of our own programs is one, and its value can be read; what `make` is asked for is a target."""
    targets = re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = {name for names in targets for name in names.split()}
    for words in _commands(page):
        ours = next((at for at, word in enumerate(words) if Path(word).name in _OURS), None)
        if ours is not None:
            try:
                _check(words[ours + 1 :])
            except (ConfigError, SystemExit) as error:
                pytest.fail(f"{' '.join(words)}: {error}")
        elif words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_blocks(page: Path) -> None:
    """Python compiles, YAML can be read."""
    for text in _blocks(page, "python"):
        compile(text, str(page), "exec")
    for text in _blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(text), dict)


def _build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Without --quiet, which would make a strict build blind to its warnings."""
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder],
        cwd=root,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="mkdocstrings needs Python 3.11")
def test_the_site(tmp_path: Path) -> None:
    """A strict build, which fails for a link or an anchor that leads nowhere, needs no network and has every page; the
    pages of reference have every public name; and nothing is fetched when it is read."""
    built = _build(ROOT, tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "Which codec should I use?" in (tmp_path / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "which_codec" or (tmp_path / "docs" / page.stem / "index.html").exists()
    for package in ("fl", "fl.data", "compression"):
        reference = (tmp_path / "reference" / package / "index.html").read_text(encoding="utf-8")
        assert "<blockquote" not in reference, "an example is indented by four spaces, without >>>"
        for name in importlib.import_module(package).__all__:
            if inspect.getdoc(getattr(importlib.import_module(package), name)):
                assert f'id="{package}.{name}"' in reference, f"{package}.{name}"
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//[^>]*stylesheet"
    )
    for page in tmp_path.rglob("*.html"):
        assert not fetched.search(page.read_text(encoding="utf-8")), page


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="mkdocstrings needs Python 3.11")
def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """To a page, to a place on a page, and to a picture: the build fails and names each."""
    links = ("none.md", "options.md#nowhere", "../Bandwidth%20Analysis/none.png")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("fl", "compression"):
        (tmp_path / package).symlink_to(ROOT / package)
    with open(tmp_path / "docs" / "gallery.md", "a", encoding="utf-8") as page:
        page.write("\n\n".join(["", *(f"[Here]({link})" for link in links)]))
    built = _build(tmp_path, tmp_path / "built")
    assert built.returncode == 1
    for link in links:
        assert f"Doc file 'docs/gallery.md' contains a link '{link}'" in built.stderr
