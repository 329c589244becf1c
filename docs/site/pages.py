"""Which files the site has: those of the repository, under the paths that they have there, so that links between them hold
on the site as well; and a page of reference for each public package. A hook of MkDocs, named in mkdocs.yml."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
HOME, OVERVIEW = "docs/which_codec.md", "README.md"
REFERENCE = {
    "fl": "A run from a program: [From Python](../docs/python.md). The fields of `Config`: [Options](../docs/options.md).",
    "fl.data": "Data sets of your own: [Data](../docs/data.md).",
    "compression": "Codecs: [Compression](../docs/compression.md). Communication hooks: [Hooks](../docs/hooks.md).",
}
"""By public package, what its page says before its names."""

_PATTERNS = (
    *("*.md", "docs/*.*", "configs/*.yaml", "experiments/*.yaml", "outputFolder/README.md"),
    *("benchmarks/*.md", "benchmarks/results/*.csv"),
    *(f"Bandwidth Analysis/**/*.{kind}" for kind in ("md", "csv", "png")),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, the repository's, and the pages of reference."""
    found = Files([file for file in files if file.src_dir != config.docs_dir])
    for path in sorted({path for pattern in _PATTERNS for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        place = {HOME: "index.html", OVERVIEW: "overview/index.html"}.get(name)
        found.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=place))
    for package, words in REFERENCE.items():
        text = f"# {package}\n\n{words}\n\n::: {package}\n"
        found.append(File.generated(config, f"reference/{package}.md", content=text))
    return found
