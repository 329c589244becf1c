"""What is kept of decoded data. Oracle: the same data set, decoded without a cache."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import Dataset, Split, cache, emotion, femnist, load_dataset, temperature, tiny_imagenet
from fl.data.cache import FOLDER, cached
from tests.fl.data import test_emotion, test_femnist, test_temperature, test_tiny_imagenet
from tests.fl.data.csv_files import read, write
from tests.support import run_here


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LEAST_BYTES", 0)


def table(folder: Path) -> Callable[[], Dataset]:
    """Rows of all kinds: with words, without a value, malformed; groups, time and a target with a scale."""
    rows = [f"{n},{n % 3},{n * n % 7}.5,{'ab'[n % 2]},{n}.25" for n in range(60)]
    write(folder / "t.csv", "at,who,x,word,y", [*rows[:20], "20,1,NA,a,3", "21,2", *rows[22:]])
    return partial(read, folder / "t.csv", "target=y,time=at,group=who,window=2", partition="natural")


def pictures(folder: Path) -> Callable[[], Dataset]:
    """Two classes, a picture that nothing is to be seen of, and what is passed over."""
    for number, name in enumerate(["cat", "cat", "cat", "dog", "dog"]):
        (folder / name).mkdir(exist_ok=True)
        Image.new("RGB", (9, 12), (40 * number, 0, 0)).save(folder / name / f"{number}.png")
    Image.new("RGBA", (9, 9), (255, 255, 255, 0)).save(folder / "dog" / "clear.png")
    (folder / "notes.txt").write_text("no picture")
    return lambda: load_dataset(DataOptions(dataset=f"imagefolder:{folder},size=8"), seed=0)


def leaf(folder: Path) -> Callable[[], Dataset]:
    test_femnist.write_leaf(folder, {"a": 3, "b": 2})
    test_femnist.write_leaf(folder, {"a": 1, "b": 1}, part="test")
    return partial(femnist.load, folder, False)


def faces(folder: Path) -> Callable[[], Dataset]:
    test_emotion.write_csv(folder)
    return partial(emotion.load, folder, False)


def stations(folder: Path) -> Callable[[], Dataset]:
    test_temperature.write(folder, "A", test_temperature.lines())
    return partial(temperature.load, folder, False)


def tiny(folder: Path) -> Callable[[], Dataset]:
    test_tiny_imagenet.write(folder, {"n01": 2, "n02": 1}, ["n01", "n02"])
    return partial(tiny_imagenet.load, folder, False)


def contents(data: Dataset) -> dict[str, Any]:
    """All that a data set holds, so that two can be compared."""
    found: dict[str, Any] = {}
    for name, value in vars(data).items():
        for key, part in (vars(value) if isinstance(value, Split) else {"": value}).items():
            found[name + key] = (part.dtype, part.tolist()) if isinstance(part, torch.Tensor) else part
    return found


def entry(folder: Path) -> Path:
    """The only entry of a cache."""
    (found,) = folder.glob("*/*.safetensors")
    return found


@pytest.fixture
def never_decode(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, to decode and keep something fails."""

    def fail(*_: Any) -> None:
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(cache, "_write", fail)


@pytest.mark.parametrize("make", [table, pictures, leaf, faces, stations, tiny])
def test_the_second_time_nothing_is_decoded(tmp_path, monkeypatch, never_decode, make) -> None:
    """Every field is the same without a cache, the first time and the second, what is said of the data included."""
    load = make(tmp_path)
    with monkeypatch.context() as without:
        without.setattr(cache, "LEAST_BYTES", 10**9)
        expected = contents(load())
        assert not (tmp_path / FOLDER).exists()
    assert contents(load()) == expected
    never_decode()
    assert contents(load()) == expected


def test_small_data_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a few lines leaves its folder as it was."""
    monkeypatch.undo()
    assert len(table(tmp_path)().train)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_other_contents_of_the_same_size_and_time_are_other_samples(tmp_path: Path) -> None:
    """Oracle: the number that stands in the file now. What was kept before is gone."""
    file = write(tmp_path / "t.csv", "a,y", [f"{n},{n}.25" for n in range(60)])
    largest = []
    for number in ("59.25", "99.25"):
        status = file.stat()
        file.write_text(file.read_text().replace("59.25", number))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        data = read(file, "target=y")
        largest.append(max(float(data.train.y.max()), float(data.test.y.max())))
        assert entry(tmp_path / FOLDER).is_file()
    assert largest == [59.25, 99.25]


def test_what_decides_the_samples_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other options, a picture in another class, and another version of a decoder are never served from the cache."""
    sizes, labels = [], []
    pictures(tmp_path)
    for words in ("size=8", "size=10"):
        sizes.append(load_dataset(DataOptions(dataset=f"imagefolder:{tmp_path},{words}"), seed=0).image_size)
    assert sizes == [8, 10]
    load = pictures(tmp_path)
    labels.append(load().train.y.tolist())
    (tmp_path / "cat" / "0.png").rename(tmp_path / "dog" / "0.png")
    labels.append(load().train.y.tolist())
    assert labels == [[0, 0, 1, 1], [0, 1, 1, 1]]
    first = {path.name for path in (tmp_path / FOLDER).glob("*/*.safetensors")}
    monkeypatch.setattr("PIL.__version__", "0")
    load()
    assert len({path.name for path in (tmp_path / FOLDER).glob("*/*.safetensors")} - first) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


def give_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


def exchange(path: Path) -> None:
    """The entry of another table in its place, whole."""
    rows = [f"{n},{n % 3},1.5,a,{n}.75" for n in range(60)]
    read(write(path.parents[2] / "other" / "t.csv", "at,who,x,word,y", rows), "target=y,time=at,window=2")
    entry(path.parents[2] / "other" / FOLDER).rename(path)


def trap(path: Path) -> None:
    """A file that would run code if it were unpickled."""
    torch.save(os.system, path)


@pytest.mark.parametrize("harm", [cut, flip, empty, link, give_away, exchange, trap])
def test_a_damaged_or_foreign_entry_is_made_again(tmp_path: Path, never_decode, harm) -> None:
    load = table(tmp_path)
    expected = contents(load())
    harm(entry(tmp_path / FOLDER))
    assert contents(load()) == expected
    never_decode()
    assert contents(load()) == expected


def occupied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("")


def leading_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, tensors: object) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(cache, "save_tensors", fail)


@pytest.mark.parametrize("trouble", [occupied, leading_away, full])
def test_where_nothing_can_be_kept_one_line_says_so(tmp_path: Path, monkeypatch, trouble) -> None:
    """The samples are those of the files all the same, and nothing is written outside."""
    load = table(tmp_path)
    expected = contents(load())
    shutil.rmtree(tmp_path / FOLDER)
    trouble(tmp_path / FOLDER, monkeypatch)
    found = contents(load())
    *others, told = found["left_out"]
    assert {**found, "left_out": tuple(others)} == expected
    assert told.startswith(f"decoded data are not kept in {tmp_path / FOLDER} (")
    assert told.endswith("); --cache-dir names another folder")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_files_that_change_meanwhile_are_not_kept(tmp_path: Path) -> None:
    """Else their old contents would stand for the new samples."""
    file = tmp_path / "t.bin"
    file.write_bytes(b"1")

    def load() -> Dataset:
        file.write_bytes(b"22")
        return numbered(2)

    cached(tmp_path, [file], "", load)
    assert not list(tmp_path.rglob("*.safetensors"))


def numbered(value: int) -> Dataset:
    train, test = (Split(torch.full((2, 3), float(value)), torch.tensor([0, 1])) for _ in range(2))
    return Dataset("numbers", train, test, classes=2)


def test_one_decodes_while_the_others_wait(tmp_path: Path) -> None:
    """Four that begin at once, as ranks do: one of them decodes."""
    (tmp_path / "t.bin").write_bytes(b"1")
    calls: list[int] = []

    def load() -> Dataset:
        calls.append(1)
        return numbered(len(calls))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached(tmp_path, [tmp_path / "t.bin"], "", load), range(4)))
    assert len(calls) == 1
    assert {float(data.train.x[0, 0]) for data in found} == {1.0}


def test_what_cannot_be_decoded_is_said_every_time(tmp_path: Path) -> None:
    """An error leaves no entry and no lock behind."""
    load = table(tmp_path)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    for _ in range(2):
        with pytest.raises(DataError, match="has no column"):
            load()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_samples_are_mapped_not_copied(tmp_path: Path) -> None:
    """Oracle: the system's own list of what this process has mapped from the entry. What is written there stays here."""
    (tmp_path / "t.bin").write_bytes(b"1")
    for value in (1, 2):
        data = cached(tmp_path, [tmp_path / "t.bin"], "", partial(numbered, value))
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
        ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
        assert any(first <= data.train.x.data_ptr() < last for first, last in ranges)
        assert float(data.train.x.min()) == 1.0
        data.train.x.zero_()


def test_cache_dir(tmp_path: Path, never_decode: Callable[[], None]) -> None:
    """End to end: the entry is in the folder named, none beside the table, and the second run ends in the same model."""
    rows = np.random.default_rng(0).normal(size=(80, 3)).round(3)
    write(tmp_path / "data" / "t.csv", "a,b,y", [f"{a},{b},{int(y > 0)}" for a, b, y in rows])
    options = {"dataset": f"csv:{tmp_path / 'data' / 't.csv'},target=y", "model": "mlp", "data_dir": "none"}
    models = []
    for name in ("one", "two"):
        run_here(tmp_path, name, cache_dir=str(tmp_path / "kept"), **options)
        models.append((tmp_path / name / "final_model.safetensors").read_bytes())
        never_decode()
    assert models[0] == models[1]
    assert entry(tmp_path / "kept").is_file()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["t.csv"]
