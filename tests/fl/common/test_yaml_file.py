"""YAML as version 1.2 means it; files from other systems, and files that mean harm."""

import math
from pathlib import Path

import pytest

from fl.common.errors import ConfigError
from fl.common.yaml_file import load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 0.001), ("5e5", 5e5), ("+.5", 0.5), ("1.", 1.0), ("-.inf", -math.inf), ("1.5E+2", 150.0)),
        *(("010", 10), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("10_000", 10000), ("1__0", "1__0"), ("1:30", "1:30")),
        *(("off", "off"), ("yes", "yes"), ("True", True), ("false", False), ("null", None), ("~", None), ("", None)),
        *(("2024-01-01", "2024-01-01"), ("'5'", "5"), ("[1, a]", [1, "a"]), ("a:\t1", {"a": 1})),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("a: {b: {c: &x {<<: {d: 1}, d: 2}}}\ne: {<<: *x}", {"a": {"b": {"c": {"d": 2}}}, "e": {"d": 2}}),
        ('{\n\t"a": 1\n}', {"a": 1}),
    ],
)
def test_values_are_those_of_the_core_schema(text, value):
    """The oracle is section 10.3 of the specification of YAML 1.2.2; 10_000 and merge keys are kept from 1.1."""
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    "data",
    [b"a: caf\xc3\xa9\r\nb: 2\r\n", b"\xef\xbb\xbfa: caf\xc3\xa9\nb: 2\n", "a: caf\u00e9\nb: 2\n".encode("utf-16")],
)
def test_files_from_windows_are_read(tmp_path, data):
    """Line ends, a byte order mark, and what Notepad calls Unicode."""
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    assert load_yaml(path) == {"a": "caf\u00e9", "b": 2}
    assert load_yaml(path, texts=True) == {"a": "caf\u00e9", "b": "2"}


_BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])
_MERGES = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30))]
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a: 1\nb: 2\na: 3", "'a' is given twice"),
        (b"a: {b: 1, b: 2}", "'b' is given twice"),
        (b"<<: {a: 1}\n<<: {b: 2}", "'<<' is given twice"),
        (b"a: !!bool maybe", "!!tag"),
        (b"a: !!timestamp today", "!!tag"),
        (b"a: [\n", "not YAML.* in line 2"),
        (b"\ta: 1", "not YAML.* in line 1"),
        (b"a: caf\xe9", "not text in UTF-8"),
        (b"a: 1\x00", "cannot be read .it is no text."),
        (b"a: !!python/object/apply:os.system [x]", "not YAML"),
        (b"a: 1\n---\nb: 2", "another document"),
        (b"? [a]\n: 1", "not YAML"),
        (_BOMB.encode(), "more than 100000 entries"),
        (_MERGES.encode(), "more than 100000 entries"),
        (b"a: [" + 300_000 * b"x," + b"]", "more than 100000 entries"),
        (b"a: " + 1_000_000 * b"x", "more than 1000000 characters"),
        (b"a: &a [*a]", "stands inside"),
        (100_000 * b"[", "nested more than 100 deep"),
        (300 * b"[" + 300 * b"]", "nested more than 100 deep"),
    ],
)
@pytest.mark.parametrize("texts", [False, True])
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, data, words, texts):
    """Also what would take for ever: 29 aliases that each stand for nine of the one before."""
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=words) as caught:
        load_yaml(path, texts=texts)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    """One sentence too."""
    for path in (tmp_path, tmp_path / "none.yaml", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_yaml(path)
