"""`text:PATH` and `shakespeare`: tokens, splits by position, roles, and files that will not do."""

import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError
from fl.data import Dataset, load_dataset

PLAY = "\n\n".join(f"{'AB'[turn % 2]}nna:\nline {turn} of a play that goes on, and on.\nAnd on." for turn in range(200))


def _load(path: Path | str, words: str = "", **options: object) -> Dataset:
    return load_dataset(DataOptions(dataset=f"text:{path}{words}", **{"context": 8, **options}), seed=0)  # type: ignore[arg-type]


def _written(folder: Path, text: str, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_samples_are_what_stands_there(tmp_path: Path) -> None:
    """By hand: 100 digits in a row; ten are held out, five to validate and five to test on, less a sample's two each."""
    data = _load(_written(tmp_path, "0123456789" * 10), context=2)
    assert (data.classes, data.bytes_per_token) == (10, 1.0)
    assert data.train.x[:3].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert data.train.y[:3].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert len(data.train) == 44  # of 90 tokens: the last sample needs a token after it
    assert data.validation is not None
    assert (data.validation.x.tolist(), data.test.x.tolist()) == ([[2, 3]], [[7, 8]])


def test_no_text_is_in_two_splits(tmp_path: Path) -> None:
    """Invariant: with tokens that say where they stand, those of the three splits lie apart, a sample's length between."""
    text = "".join(chr(0x4E00 + place) for place in range(2000))
    data = _load(_written(tmp_path, text), ",tokens=chars,stride=3")
    assert data.validation is not None
    spans = [(int(split.x.min()), int(split.y.max())) for split in (data.train, data.validation, data.test)]
    for (_, end), (start, _) in pairwise(spans):
        assert start - end > 8
    assert (data.train.x[1] - data.train.x[0]).tolist() == [3] * 8


@pytest.mark.parametrize(
    ("words", "classes", "size"), [("", 3, 4 / 3), (",tokens=bytes", 256, 1.0), (",tokens=chars", 3, 4 / 3)]
)
def test_characters_and_bytes(tmp_path: Path, words: str, classes: int, size: float) -> None:
    """Counted by hand: three characters, of which one takes two bytes in UTF-8."""
    data = _load(_written(tmp_path, "abé" * 300), words)
    assert (data.classes, data.bytes_per_token) == (classes, pytest.approx(size))


def test_many_characters_are_read_as_bytes(tmp_path: Path) -> None:
    """More than 256 different characters: bytes, which the note says."""
    data = _load(_written(tmp_path, "".join(chr(0x4E00 + place) for place in range(2000))))
    assert (data.classes, data.bytes_per_token) == (256, 1.0)
    assert "as bytes" in data.notes[0]


def test_targets_of_several_files_are_no_copy(tmp_path: Path) -> None:
    """They lie one token behind their inputs, in the same memory."""
    for name in ("a.txt", "b.txt"):
        _written(tmp_path, "0123456789" * 50, name)
    train = _load(tmp_path).train
    assert train.y.data_ptr() == train.x.data_ptr() + train.x.element_size()


def test_a_folder_is_a_client_a_file(tmp_path: Path) -> None:
    """Each file is split by itself; what is no text, and what is too short, is told; hidden files are not read."""
    for name, text in (("b.txt", "b" * 500), ("a.md", "a" * 500), ("short", "ab"), (".hidden", "zzz" * 100)):
        _written(tmp_path, text, name)
    (tmp_path / "picture.png").write_bytes(bytes(range(256)) * 4)
    data = _load(tmp_path, partition="natural")
    assert data.groups is not None
    assert (data.classes, int(data.groups.max()) + 1) == (2, 2)
    for group, token in ((0, 0), (1, 1)):
        assert set(data.train.x[data.groups == group].flatten().tolist()) == {token}
    assert any("1 of 3 files are left out" in line for line in data.left_out)
    assert any("1 file(s) that are no text" in line for line in data.left_out)


def test_roles_are_clients(tmp_path: Path) -> None:
    """A play of two roles by turns: all that one says, and not the names, in the order of the play."""
    data = _load(_written(tmp_path, PLAY.replace("\n", "\r\n")), ",group=role", partition="natural")
    assert data.groups is not None
    assert torch.bincount(data.groups).tolist() == [pytest.approx(len(data.train) / 2, abs=2)] * 2
    whole = _load(tmp_path / "a.txt", ",group=role")
    assert whole.groups is None
    assert whole.classes == len(set(PLAY))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (",group=play", "group must be file or role"),
        (",stride=0", "stride=0': stride must be a whole number of at least 1"),
        (",size=3", "no option 'size'"),
        (",tokens=nothing.json", "there is no nothing.json"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        _load(_written(tmp_path, PLAY), words)


class _Words:
    """What `Tokenizer` of the package tokenizers promises: words of a vocabulary whose numbers leave some out."""

    @staticmethod
    def from_file(path: str) -> "_Words":
        return _Words()

    def get_vocab(self) -> dict[str, int]:
        return {"the": 0, "cat": 900}

    def encode(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        try:
            return SimpleNamespace(ids=[self.get_vocab()[word] for word in text.split()])
        except KeyError:
            raise Exception("there is no [UNK]") from None


def test_tokens_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tokens as the highest number says, and a sentence where the vocabulary is too small for the text."""
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=_Words))
    _written(tmp_path, "{}", "words.json")
    words = f",tokens={tmp_path / 'words.json'}"
    data = _load(_written(tmp_path, "the cat " * 200), words)
    assert (data.classes, data.train.x.unique().tolist(), data.bytes_per_token) == (901, [0, 900], 4)
    with pytest.raises(DataError, match=r"words\.json cannot write this text .*there is no \[UNK\]"):
        _load(_written(tmp_path, "the dog " * 200), words)


@pytest.mark.parametrize("text", ["", "too short to split"])
def test_too_little_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"there is no text|leave no train sample"):
        _load(_written(tmp_path, text), context=64)


def test_absent_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        _load(tmp_path / "absent.txt")
    (tmp_path / "b.txt").write_bytes(bytes(100) + b"a")
    with pytest.raises(DataError, match="cannot be read"):
        _load(tmp_path / "b.txt")
    _written(tmp_path, "one role alone\n\n" * 40, "c.txt")
    with pytest.raises(DataError, match="group=role needs at least two roles"):
        _load(tmp_path / "c.txt", ",group=role", partition="natural")


def test_shakespeare(real_data: Path) -> None:
    """The whole file by its characters, 65 of them as nanoGPT counts; by roles without their names."""
    data = load_dataset(DataOptions(dataset="shakespeare", data_dir=str(real_data)), seed=0)
    assert (data.name, data.classes, data.sample_shape) == ("shakespeare", 65, (64,))
    assert len(data.train) == (round(1_115_394 * 0.9) - 1) // 64
    roles = load_dataset(
        DataOptions(dataset="shakespeare", data_dir=str(real_data), partition="natural", clients=20), seed=0
    )
    assert roles.groups is not None
    assert int(roles.groups.max()) == 19
