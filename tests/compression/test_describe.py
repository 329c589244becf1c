"""`python -m compression describe`. Oracle: the codec's own payload, and the formulas written out by hand."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compression import Layout, make_codec
from compression.__main__ import main
from compression.describe import Description, describe

LAYOUT = Layout(("fc.weight", "fc.bias"), ((40, 30), (40,)))
X = torch.randn(LAYOUT.total, generator=torch.Generator().manual_seed(0))


def spoken(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints, in one line, without the table's frame."""
    main(["describe", *map(str, words)])
    printed = capsys.readouterr()
    assert printed.err == ""
    return " ".join(re.sub(r"[^\x20-\x7e]", " ", printed.out).split())


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line on stderr of a mistake, whose exit status is 2, without its `error: `."""
    with pytest.raises(SystemExit) as stopped:
        main(["describe", *map(str, words)])
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("error: ").rstrip()


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    """`path`, after writing the tensors there."""
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("spec", ["none", "topk:0.01+log3+zstd", "randk:0.1+bf16", "powersgd:2+int8", "csr_codec:csr"])
def test_bytes_are_those_of_the_codec(spec: str) -> None:
    """len(payload) of encode; dense is 24 bytes of header and 4 a coordinate."""
    found = describe(spec, LAYOUT, X)
    assert found.payload_bytes == make_codec(spec).encode(X, LAYOUT)[0].numel()
    assert (found.spec, found.coordinates, found.dense_bytes) == (spec, 1240, 24 + 4 * 1240)
    assert found.encode_s > 0
    assert found.decode_s > 0


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("none", 1240),
        ("topk:0.1+bf16", 124),
        ("powersgd:2+bf16", 2 * (40 + 30) + 40),
        ("topk:1+zstd", 1240),
        ("csr_codec:csr", None),
    ],
)
def test_values_sent(spec: str, values: int | None) -> None:
    """By hand; of low rank, the factors of the matrix and the bias as it is."""
    found = describe(spec, LAYOUT, X)
    assert found.values_sent == values
    if values is None:
        assert found.bits_per_value is None
    else:
        assert found.bits_per_value == pytest.approx(8 * found.payload_bytes / values)


def test_what_follows_from_bytes_and_seconds() -> None:
    """1000 coordinates in 1024 bytes, 4024 dense, 1 + 2 ms. Saved: 3000 bytes, 24,000 bits in 3 ms, 8 Mbit/s."""
    found = Description("x", 1000, 100, 1024, 4024, 0.001, 0.002)
    assert found.ratio == pytest.approx(4024 / 1024)
    assert found.bits_per_coordinate == pytest.approx(8.192)
    assert found.bits_per_value == pytest.approx(81.92)
    assert found.break_even_bits_per_s == pytest.approx(8e6)
    assert found.seconds(1e6) == pytest.approx((0.032192, 0.008192 + 0.003))
    dense, coded = found.seconds(8e6)
    assert dense == pytest.approx(coded)


@pytest.mark.parametrize("payload", [4024, 5000])
def test_no_break_even_without_fewer_bytes(payload: int) -> None:
    """A payload that is not smaller pays at no bandwidth."""
    assert Description("x", 1000, 1000, payload, 4024, 0.001, 0.002).break_even_bits_per_s is None


def test_a_vector_of_nothing_is_described() -> None:
    """No division by zero."""
    found = describe("topk:0.1", Layout(("a",), ((0,),)), torch.empty(0))
    assert (found.coordinates, found.values_sent) == (0, 0)
    assert found.bits_per_coordinate == found.bits_per_value == 8 * found.payload_bytes


def test_a_built_in_network(capsys: pytest.CaptureFixture[str]) -> None:
    """lenet5 for 3x32x32: 62,006 parameters, of which 620 are sent."""
    text = spoken(capsys, "topk:0.01+bf16", "--model", "lenet5", "--threads", 1)
    assert text.startswith("topk:0.01+bf16 on lenet5: 62,006 coordinates")
    assert "dense fp32 248,048 bytes" in text
    assert "values sent 620, with their positions" in text
    assert re.search(r"ratio [\d.]+ times fewer bytes", text)
    assert re.search(r"encode \+ decode [\d.,]+ m?s \+ [\d.,]+ m?s here", text)
    assert re.search(r"break-even [\d.,]+ [kMG]bit/s: on a faster link, dense fp32 is faster", text)
    assert "1 Mbit/s 1.98 s" in text  # dense, 8 * 248,048 / 1e6
    assert "10,000 Mbit/s 0.198 ms" in text
    assert "note:" not in text


def test_a_real_update(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's tensors, whatever their precision; and a path is no markup."""
    path = saved(
        tmp_path / "[red]up[" / "date].safetensors", {"b.weight": X[:1200].view(40, 30), "a.bias": X[1200:].half()}
    )
    text = spoken(capsys, "threshold:1e9", "--update", path)
    assert "[red]up[/date].safetensors: 1,240 coordinates" in text
    assert "payload 24 bytes" in text
    assert "values sent 0," in text
    assert "note:" not in text
    assert "dense fp32 4,984 bytes" in spoken(capsys, "none", "--update", path)
    assert "ratio as many bytes" in spoken(capsys, "none", "--update", path)


def test_more_bytes_are_called_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """csr of a vector of three: 128 + 12 bytes for 24 + 12, which is 3.89 times as many; values are not known."""
    text = spoken(capsys, "csr_codec:csr", "--update", saved(tmp_path / "x", {"x": torch.ones(3)}))
    assert "ratio 3.89 times MORE bytes" in text
    assert "break-even none: the payload is not smaller than dense" in text
    assert "values sent" not in text


def test_a_small_update_has_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither 0 Mbit/s nor 0.000 s."""
    text = spoken(capsys, "fp16", "--update", saved(tmp_path / "x", {"x": torch.ones(16)}))
    assert re.search(r"break-even [1-9][\d.,]* k?M?bit/s", text)
    assert "10,000 Mbit/s 0.0000704 ms" in text  # 88 bytes


def test_a_threshold_needs_a_real_update(capsys: pytest.CaptureFixture[str]) -> None:
    """The random vector's scale is nobody's."""
    text = spoken(capsys, "threshold:2+bf16", "--model", "lenet5")
    assert "note: the random vector has standard deviation 1; --update FILE shows" in text


def test_specifications_that_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is loaded."""
    assert refused(capsys, "tpok", "--update", "/no/file").endswith("did you mean 'topk'?")


@pytest.mark.parametrize("threads", ["0", "-1", "1000000"])
def test_threads_that_are_refused(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer than one, or so many that the machine would only swap them."""
    before = torch.get_num_threads()
    assert f"--threads {threads} must lie between 1 and" in refused(capsys, "none", "--threads", threads)
    assert torch.get_num_threads() == before


def broken(classes: int, in_channels: int) -> nn.Module:
    """A user's function with a mistake."""
    raise RuntimeError("no\nnetwork")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("lenet", "--model 'lenet' is not known; did you mean 'lenet5'?"),
        (
            "os:getcwd",
            r"--model 'os:getcwd' is called as getcwd\(classes, in_channels\), which getcwd\(\) does not take",
        ),
        ("builtins:complex", "--model builtins:complex must return a torch.nn.Module, not complex"),
        (
            f"{__name__}:broken",
            rf"--model {__name__}:broken fails when it is called as .* \(RuntimeError: no network; .*\)",
        ),
        ("no_such_module:f", ".*there is no module 'no_such_module'.*"),
    ],
)
def test_models_that_are_refused(model: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is none, and functions that give no network."""
    assert re.fullmatch(says.replace("?", r"\?"), refused(capsys, "none", "--model", model))


def test_without_the_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the networks are missing then; a file is described as before."""
    for name in [name for name in sys.modules if name == "fl" or name.startswith("fl.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fl", None)
    says = refused(capsys, "none")
    assert says.startswith("--model resnet18: the networks come with the trainer, which is not there (")
    assert says.endswith("); give --update FILE instead")
    assert "x: 3 coordinates" in spoken(capsys, "none", "--update", saved(tmp_path / "x", {"x": torch.ones(3)}))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "holds no tensor"),
        (
            {"a": torch.ones(2), "b.c": torch.ones(2, dtype=torch.int64)},
            "tensor 'b.c' holds int64; an update is of fp64,",
        ),
        ({"z": torch.ones(2, dtype=torch.complex64)}, "tensor 'z' holds complex64; an update is of fp64,"),
        ({"a": torch.tensor([1.0, float("nan")])}, "the file holds NaN or infinity (after conversion to fp32)"),
        (
            {"a": torch.full((2,), 1e39, dtype=torch.float64)},
            "the file holds NaN or infinity (after conversion to fp32)",
        ),
    ],
)
def test_updates_that_are_refused(
    tensors: dict[str, Tensor], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that hold no update."""
    path = saved(tmp_path / "file", tensors)
    line = refused(capsys, "topk:0.1", "--update", path)
    assert line.startswith(f"--update {path}")
    assert says in line


def test_files_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An absent one, a folder, another kind of file."""
    text = tmp_path / "text"
    text.write_text("hello")
    assert refused(capsys, "none", "--update", tmp_path / "no") == f"--update {tmp_path / 'no'} does not exist"
    for path in (tmp_path, text):
        assert f"--update {path} is not a safetensors file: " in refused(capsys, "none", "--update", path)
