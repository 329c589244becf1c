"""NumPy archives of strangers. Oracle: an error that the readers turn into a sentence, before there is an array."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fl.data.files import read_arrays


def _archive(path: Path, content: bytes) -> Path:
    """An archive of one array, `a`, as these bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    return path


def _header(shape: str) -> bytes:
    """A .npy file of these dimensions, without any values."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_arrays_by_name(tmp_path: Path) -> None:
    """Those asked for, in that order; KeyError for one that is not there."""
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.eye(2))
    b, a = read_arrays(tmp_path / "a.npz", ["b", "a"])
    assert (a.tolist(), b.tolist()) == ([0, 1, 2], [[1, 0], [0, 1]])
    with pytest.raises(KeyError):
        read_arrays(tmp_path / "a.npz", ["c"])


@pytest.mark.parametrize(
    "shape", ["(10**18,)", "(1000000000000000,)", "(-3,)", "(9223372036854775807, 9)", "((", "'x'"]
)
def test_an_array_that_claims_too_much(tmp_path: Path, shape: str) -> None:
    """Dimensions without values, beyond any memory, or none at all."""
    with pytest.raises(ValueError, match=r"."):
        read_arrays(_archive(tmp_path / "a.npz", _header(shape)), ["a"])


def test_what_is_no_archive(tmp_path: Path) -> None:
    """A single array, text, an archive without its end."""
    np.save(tmp_path / "one.npy", np.arange(3))
    whole = io.BytesIO()
    np.savez(whole, a=np.arange(300))
    for content in ((tmp_path / "one.npy").read_bytes(), b"no archive", b"", whole.getvalue()[:-30]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises((ValueError, EOFError)):
            read_arrays(tmp_path / "a.npz", ["a"])


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 MB of zeros in 3 kB, where 1 MB would be harmless."""
    monkeypatch.setattr("fl.common.text_file._ALWAYS", 1_000_000)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(3_000_000, np.uint8))
    with pytest.raises(ValueError, match="unpack to 3000"):
        read_arrays(tmp_path / "a.npz", ["a"])
