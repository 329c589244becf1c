"""Codecs by plug-in, `module:function`. Oracle: the codec that the function here returns."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compression import Codec, Layout, PayloadError, Sender, Sparse, SpecError, make_codec
from compression.codec import Memory

HERE = __name__


@dataclass(frozen=True)
class Half(Codec):
    """The even coordinates in bfloat16, two bytes each, without a header."""

    spec: str

    @property
    def sparse(self) -> bool:
        return True

    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        payload = x[::2].bfloat16().view(torch.uint8)
        return payload, self.decode(payload, x.numel()), {}

    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        if payload.numel() != 2 * ((n + 1) // 2):
            raise PayloadError(f"{payload.numel()} bytes for {n} coordinates")
        return Sparse(n, torch.arange(0, n, 2), payload.view(torch.bfloat16).float())


def half(spec: str) -> Codec:
    """A plug-in as a user writes it."""
    return Half(spec)


def fails(spec: str) -> Codec:
    """One with a mistake."""
    raise RuntimeError("no codec today")


def number(spec: str) -> int:
    """One that returns something else."""
    return 3


def renamed(spec: str) -> Codec:
    """One whose codec goes by another name."""
    return replace(make_codec("none"), spec="half")  # type: ignore[type-var]


def test_a_plug_in_is_a_codec() -> None:
    """It is decoded by another codec of the same specification, and error feedback keeps what it leaves out."""
    spec, layout = f"{HERE}:half", Layout(("a", "b"), ((3,), (2,)))
    update = torch.tensor([1.0, 2.0, -3.0, 4.0, 5.0])
    sender = Sender(make_codec(spec), "residual")
    assert sender.codec == Half(spec)
    payload, decoded = sender.encode(update.clone(), layout)
    sender.keep()
    assert payload.numel() == 6
    received = make_codec(spec).decode(payload, 5, layout).dense()
    assert received.tolist() == decoded.dense().tolist() == [1, 0, -3, 0, 5]
    left = torch.cat([sender.state_dict()[f"residual.{name}"].flatten() for name in "ab"])
    assert torch.equal(received + left, update)
    with pytest.raises(PayloadError):
        sender.codec.decode(payload[1:], 5, layout)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no_such_module:f", "'no_such_module:f': there is neither a codec stage nor a module 'no_such_module' on the"),
        ("tpok:x", "module 'tpok' on the Python path; did you mean 'topk'\\?$"),
        ("compression.no:f", "a module 'compression.no' on the Python path"),
        (f"{HERE}:missing", "has no function 'missing'$"),
        (f"{HERE}:HERE", "has no function 'HERE'$"),
        (f"{HERE}:fails", r"fails\(spec\) fails \(RuntimeError: no codec today\)$"),
        (f"{HERE}:number", r"number\(spec\) must return a compression.Codec with that spec, not 3$"),
        (f"{HERE}:renamed", "must return a compression.Codec with that spec, not SparseCodec"),
        (f"{HERE}:half+zstd", "."),
        ("topk:x", "the kept fraction must be a number, not 'x'$"),
    ],
)
def test_plug_ins_that_are_refused(spec: str, says: str) -> None:
    """In one sentence; a stage's own name is never a module."""
    with pytest.raises(SpecError, match=says):
        make_codec(spec)


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that raises, one that exits, and one that imports what is not there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code, says in (
        ("plug_in_raises", "1 / 0", "ZeroDivisionError: division by zero"),
        ("plug_in_exits", "raise SystemExit(2)", "SystemExit: 2"),
        ("plug_in_imports", "import no_such_module_here", "No module named 'no_such_module_here'"),
    ):
        (tmp_path / f"{name}.py").write_text(code)
        with pytest.raises(SpecError, match=f"module '{name}' cannot be imported .{says}"):
            make_codec(f"{name}:f")
