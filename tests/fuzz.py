"""Bytes of strangers: damaged payloads of every codec, and damaged files of every reader (`make fuzz`).

For every input a valid value comes out, or one of the project's own errors in one line, within LIMIT_S seconds. Payloads
have half a gigabyte of address space, files four. Payloads and their damages are those of `tests/compression/damage.py`, and
masks. A file is damaged as a whole, or inside of what it is packed in, whose checksums are then right again.
"""

import argparse
import contextlib
import gzip
import io
import json
import random
import signal
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from compression import PayloadError, Sparse
from compression.masks.payload import decode_mask, encode_mask
from compression.spec import SpecError
from fl.clock.profiles import profiles
from fl.common.config import Config, ModelOptions, stored_options
from fl.common.errors import ConfigError, DataError
from fl.common.paths import expand_paths
from fl.data import csv_table, emotion, femnist, image_folder, mental_state, mnist, temperature, tiny_imagenet
from fl.experiment import read_experiment
from fl.export import load
from fl.export.structure import Structure
from fl.models import build_model
from fl.models.weights import load_weights
from fl.output.figures.run_data import read_run
from fl.rounds.sampling import Sampler
from fl.run.checks import check_options
from fl.run.cli import parse
from fl.training.engine.deepspeed_json import DeepSpeedJson
from tests.compression.damage import Case, bounded_memory, cases, check, damaged, tensor

OWN = (ConfigError, DataError, SpecError, PayloadError)
LIMIT_S = 10
_MORE_BYTES = 1 << 32  # threads that decode pictures reserve much that they never touch


@dataclass
class Outcome:
    """How often each thing came out, and the longest that an input took; `wrong`: what must not come out, described."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def take(self, name: str, read: Callable[[], object]) -> None:
        """One input: call `read`."""
        started = time.perf_counter()
        try:
            with _time_limit():
                read()
            self.counts["valid"] += 1
        except OWN as error:
            self.counts["refused"] += 1
            if "\n" in str(error) or not str(error):
                self.wrong.append(f"{name}: not one sentence, {str(error)!r}")
        except Exception as error:
            self.wrong.append(f"{name}: {type(error).__name__}: {error}"[:300])
        self.slowest_s = max(self.slowest_s, time.perf_counter() - started)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz_payloads(count: int, rng: random.Random) -> Outcome:
    """So many damaged payloads of codecs and masks."""
    outcome, known = Outcome(), [*cases(), *_masks()]
    with bounded_memory():
        for number in range(count):
            case = rng.choice(known)
            data = damaged(case, known, rng)
            outcome.take(f"payload {number}", lambda case=case, data=data: _decode(case, data))
    return outcome


def _decode(case: Case, data: bytes) -> None:
    found: Any = case.decode(tensor(data))
    if isinstance(found, Sparse):
        check(found, case.n)
    else:
        assert found.dtype == torch.bool
        assert found.shape == (case.n,)


def _masks() -> list[Case]:
    """Masks of several densities, scattered and in runs."""
    found = []
    for n, density, run in (
        (1, 1.0, 1),
        (40, 0.5, 1),
        (1000, 0.02, 1),
        (1000, 0.9, 1),
        (1500, 0.3, 30),
        (1500, 0.5, 50),
    ):
        generator = torch.Generator().manual_seed(n)
        mask = (torch.rand(-(-n // run), generator=generator) < density).repeat_interleave(run)[:n]
        decode: Any = lambda data, n=n: decode_mask(data, n)  # noqa: E731
        found.append(Case(n, encode_mask(mask).numpy().tobytes(), decode))
    return found


def damaged_file(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The file, damaged in one way or two, as a whole or inside of its packing."""
    if rng.random() < 0.7:
        for packed, inside in _INSIDE.items():
            if data.startswith(packed):
                return inside(data, others, rng)
    for _ in range(rng.choice((1, 1, 2))):
        data = rng.choice(_WAYS)(data, others, rng)
    return data


def _inside_zip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as copy:
        names = whole.namelist()
        chosen = rng.choice(names)
        for name in names:
            content = whole.read(name)
            copy.writestr(name, damaged_file(content, others, rng) if name == chosen else content)
    return file.getvalue()


def _inside_gzip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    return gzip.compress(damaged_file(gzip.decompress(data), others, rng), 1, mtime=0)


def _inside_png(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One chunk damaged: its length and checksum are right."""
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    chosen = rng.randrange(len(chunks))
    kind, content = chunks[chosen]
    chunks[chosen] = kind, rng.choice(_WAYS)(content, others, rng)
    made = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(made)


_INSIDE: dict[bytes, Callable[[bytes, list[bytes], random.Random], bytes]] = {
    b"PK\3\4": _inside_zip,
    b"\x1f\x8b": _inside_gzip,
    b"\x89PNG": _inside_png,
}
_WORDS = (
    *(b"nan", b"-1", b"1e999", b"9" * 400, b"0x10", b"010", b"null", b"true", b"[]", b"{}", b'"', b",", b"\n", b"\0"),
    *(
        b"\xff",
        b"\xef\xbb\xbf",
        b"=",
        b":",
        b"../",
        b"$HOME",
        b"~",
        b"*a",
        b"&a ",
        b"<<: ",
        b"!!python/name:os.system ",
        b"[" * 200,
    ),
)


def _flip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 4) if found else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _cut(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _leave_out(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 8, 100)) :]


def _repeat(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at : at + 200] * rng.choice((2, 3, 50)) + data[at:]


def _put_in(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((*_WORDS, rng.randbytes(4))) + data[at + rng.choice((0, 1, 4)) :]


def _replace_number(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One run of digits by a word."""
    at = next((at for at in range(rng.randrange(len(data) + 1), len(data)) if data[at : at + 1].isdigit()), len(data))
    end = at
    while data[end : end + 1].isdigit():
        end += 1
    return data[:at] + rng.choice(_WORDS) + data[end:]


def _integer(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Two, four or eight bytes, as headers have them, by an extreme number."""
    size = rng.choice((2, 4, 8))
    at = rng.randrange(max(1, min(len(data), 64)))
    number = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, 65_536))
    return data[:at] + (number % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _encode(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """As another program would save the text."""
    text = data.decode("latin-1")
    return (text + rng.choice(("", "\u00e9"))).encode(
        rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"))
    )


_WAYS = (_flip, _flip, _cut, _leave_out, _repeat, _put_in, _put_in, _replace_number, _integer, _splice, _encode)


Contents = Mapping[str, bytes | str]


@dataclass(frozen=True)
class Reader:
    """Something that reads `files`, each of which is damaged in turn."""

    name: str
    files: list[Path]
    read: Callable[[], object]


def fuzz_files(count: int, rng: random.Random, folder: Path) -> dict[str, Outcome]:
    """So many damaged files for all readers together, by reader."""
    known = readers(folder)
    contents = {path: path.read_bytes() for reader in known for path in reader.files}
    others = list(contents.values())
    outcomes = {reader.name: Outcome() for reader in known}
    for reader in known:
        reader.read()  # undamaged
    with bounded_memory(_MORE_BYTES):
        for number in range(count):
            reader = known[number % len(known)]
            path = rng.choice(reader.files)
            path.write_bytes(damaged_file(contents[path], others, rng))
            outcomes[reader.name].take(f"{reader.name}, file {number}", reader.read)
            path.write_bytes(contents[path])
    return outcomes


def readers(folder: Path) -> list[Reader]:
    """Every reader of files, with good files of its own in `folder`."""
    found: list[Reader] = []

    def add(name: str, files: Contents, read: Callable[[Path], object], also: Contents | None = None) -> None:
        own = folder / name
        for file, content in {**files, **(also or {})}.items():
            path = own / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found.append(Reader(name, [own / file for file in files], lambda: read(own)))

    def option(name: str) -> Callable[[Path], object]:
        return lambda own: parse(["--config", str(own / name)])

    add("options", {"a.yaml": "lr: 0.1\nrounds: 3\nuplink: &up topk:0.1\ndownlink: *up\n"}, option("a.yaml"))
    add("options, JSON", {"a.json": json.dumps({"lr": 0.1, "rounds": 3, "model": "lenet5"})}, option("a.json"))
    add("experiment", {"e.yaml": _EXPERIMENT}, lambda own: read_experiment(own / "e.yaml"))
    table = (
        "client,compute_flops,up_bytes,down_bytes,latency_s,loss,jitter\n0,1e9,1e5,1e6,0.1,0,0\n1,2e9,1,2,0.2,0.1,0.1\n"
    )
    add("--profiles", {"p.csv": table}, lambda own: profiles(str(own / "p.csv"), 2, 0))
    up = "client,first_round,last_round\n0,0,9\n1,2,5\n"
    add("--sampling", {"s.csv": up}, lambda own: Sampler(str(own / "s.csv"), [1, 1], 0).draw([0, 1], 1, 3))
    model = build_model(ModelOptions(model="lenet5"), classes=10, in_channels=1, image_size=28, seed=0)
    weights = save(model.state_dict())
    add("--init", {"w.safetensors": weights}, lambda own: _init(model, own / "w.safetensors"))
    add("--deepspeed-config", {"d.json": _DEEPSPEED}, lambda own: DeepSpeedJson.read(str(own / "d.json")))
    add("config.json", {"config.json": json.dumps(vars(Config()))}, _stored)
    add("exported model", {"structure.json": _structure(), "model.safetensors": weights}, load)
    add("tables of a run", _run_folder(), read_run)
    arrays = _arrays()
    add("femnist, archive", {"femnist.npz": _npz(arrays)}, lambda own: femnist.load(own, False))
    leaf = json.dumps({"users": ["a"], "user_data": {"a": {"x": [[0.5] * 784], "y": [3]}}})
    add("femnist, LEAF", {"train/a.json": leaf, "test/a.json": leaf}, lambda own: femnist.load(own, False))
    faces = {f"{letter}_{part}": _faces(letter) for part in ("train", "public", "private") for letter in "xy"}
    names = np.array(list("abcdefg"))
    add("emotion, archive", {"fer2013.npz": _npz({**faces, "classes": names})}, lambda own: emotion.load(own, False))
    usages = ("Training", "PublicTest", "PrivateTest")
    fer = "emotion,pixels,Usage\n" + "".join(f"{n},{' '.join(['7'] * 2304)},{u}\n" for n in range(2) for u in usages)
    add("emotion, csv", {"fer2013.csv": fer}, lambda own: emotion.load(own, False))
    idx = {
        f"MNIST/raw/{part}-{kind}": _idx(kind)
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }
    add("mnist", dict(idx), lambda own: mnist.load(own, False))
    hours = "year,month,day,hour,TEMP,PRES,DEWP,WSPM\n" + "".join(
        f"2015,1,{1 + n // 24},{n % 24},{n % 7},1000,-{n % 5},{n / 2}\n" for n in range(300)
    )
    add(
        "temperature",
        {"PRSA_Data_a.csv": hours, "PRSA_Data_b.csv.gz": gzip.compress(hours.encode(), mtime=0)},
        lambda own: temperature.load(own, False),
    )
    eeg = "timestamps,TP9,AF7,AF8,TP10\n" + "".join(f"{n * 0.004:.3f},{n},{-n},7,{n % 9}\n" for n in range(800))
    add(
        "mental_state",
        {"subjecta-relaxed-1.csv": eeg, "subjecta-relaxed-2.csv": eeg},
        lambda own: mental_state.load(own, False),
    )
    picture = _picture("jpeg", 64)
    lists = {"wnids.txt": "n01\n", "words.txt": "n01\tcat\n", "val/val_annotations.txt": "v.JPEG\tn01\t0\t0\t1\t1\n"}
    pictures = {"train/n01/images/a.JPEG": picture, "val/images/v.JPEG": picture}
    add("tiny_imagenet", {**lists, **pictures}, lambda own: tiny_imagenet.load(own, False))
    kinds = {
        f"a/{n}.{kind}": _picture(kind, 20)
        for n, kind in enumerate(("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"))
    }
    add(
        "imagefolder",
        dict(kinds),
        lambda own: image_folder.reader(f"imagefolder:{own},size=8")(),
        {"b/0.png": _picture("png", 20), "b/1.png": _picture("png", 20)},
    )
    rows = "a,b,when,y\n" + "".join(f"{n * 0.5},{'xyz'[n % 3]},2024-01-{1 + n % 28:02},{n % 2}\n" for n in range(80))
    add(
        "csv",
        {"t.csv": rows, "u.csv.gz": gzip.compress(rows.encode(), mtime=0)},
        lambda own: csv_table.reader(f"csv:{own},target=y")(),
    )
    return found


_EXPERIMENT = """name: tiny
base: &b {dataset: digits, model: lenet5, rounds: 2}
vary: [uplink]
arms:
  dense: {uplink: none}
  sparse: {uplink: topk:0.1}
seeds: [0, 1]
target: {val_accuracy: 0.5}
"""
_DEEPSPEED = json.dumps(
    {
        "train_micro_batch_size_per_gpu": 16,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "betas": [0.9, 0.99]}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10}},
        "zero_optimization": {"stage": 0},
    }
)


def _init(model: torch.nn.Module, path: Path) -> None:
    load_weights(model, str(path))


def _stored(own: Path) -> None:
    check_options(expand_paths(stored_options(own)))


def _structure() -> str:
    network = {"model": "lenet5", "stem": "cifar", "norm": "batch", "classes": 10, "in_channels": 1, "image_size": 28}
    return json.dumps(Structure(**network, mean=[0.0], std=[1.0]).to_json())  # type: ignore[arg-type]


def _run_folder() -> dict[str, bytes | str]:
    from tests.fl.output.figures.run_folder import make_run

    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        return {path.name: path.read_bytes() for path in sorted(run.iterdir())}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _arrays() -> dict[str, np.ndarray]:
    images, numbers = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    return {"x_train": images, "y_train": numbers, "writer_train": numbers // 2, "x_test": images, "y_test": numbers}


def _faces(letter: str) -> np.ndarray:
    return np.zeros((3, 48, 48), np.uint8) if letter == "x" else np.arange(3)


def _idx(kind: str) -> bytes:
    shape = (4, 28, 28) if kind.startswith("images") else (4,)
    values = np.arange(int(np.prod(shape))) % 10
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()


def _picture(kind: str, side: int) -> bytes:
    file = io.BytesIO()
    shades = np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(shades).save(file, format=kind)
    return file.getvalue()


def main() -> None:
    """A table by reader; exit status 1 and the first of what is wrong where something is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--payloads", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(
        f"--seed {options.seed}\n\n| what | inputs | valid | refused | wrong | slowest, s |\n|---|---|---|---|---|---|\n"
    )
    outcomes = {"payloads": fuzz_payloads(options.payloads, random.Random(options.seed))}
    with tempfile.TemporaryDirectory() as folder:
        outcomes |= fuzz_files(options.files, random.Random(options.seed), Path(folder))
    wrong = [each for outcome in outcomes.values() for each in outcome.wrong]
    for name, outcome in outcomes.items():
        counts = outcome.counts
        cells = (counts.total() + len(outcome.wrong), counts["valid"], counts["refused"], len(outcome.wrong))
        sys.stdout.write(f"| {name} | {' | '.join(f'{each:,}' for each in cells)} | {outcome.slowest_s:.2f} |\n")
    for each in wrong[:50]:
        sys.stderr.write(f"{each}\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
