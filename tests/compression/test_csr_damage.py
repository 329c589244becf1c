"""Damaged payloads of compressed sparse rows. Oracle: the rule that any bytes decode to a valid vector, which encodes
to the same bytes, or raise PayloadError."""

import io
import itertools
import random
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from compression import Layout, PayloadError
from compression.csr import decode_csr, encode_csr
from tests.compression.test_csr import LAYOUT, SHAPES, sparse_vector

ONE = Layout(("w",), ((1, 3, 4),))
ROWS = torch.tensor([[0, 1.0, 0, 2.0], [0, 0, 0, 0], [3.0, 4.0, 0, 0]]).reshape(-1)


def tensor(data: bytes | bytearray) -> Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def patched(name: str, values: list[float], kind: str) -> bytes:
    """ROWS with one array of the .npz overwritten, checksums made right again."""
    data = bytearray(encode_csr(ONE, ROWS).numpy().tobytes())
    file = np.load(io.BytesIO(bytes(data)))
    start = data.index(np.ascontiguousarray(file[name]).tobytes(), data.index(f"{name}.npy".encode()) + 128)
    old = zlib.crc32(data[start - 128 : start + file[name].nbytes]).to_bytes(4, "little")
    new = np.array(values, dtype=kind).tobytes()
    assert len(new) == file[name].nbytes
    data[start : start + len(new)] = new
    crc = zlib.crc32(data[start - 128 : start + len(new)]).to_bytes(4, "little")
    assert data.count(old) == 2
    return bytes(data.replace(old, crc))


@pytest.mark.parametrize(
    ("name", "values", "kind", "says"),
    [
        ("indptr", [1, 2, 2, 4], "<i4", "rows do not add up"),
        ("indptr", [0, 2, 2, 3], "<i4", "rows do not add up"),
        ("indptr", [0, 2, 1, 4], "<i4", "rows do not add up"),
        ("indptr", [0, 2**31 - 1, -(2**31), 4], "<i4", "rows do not add up"),
        ("indptr", [0, 3, 3, 4], "<i4", "columns do not ascend"),
        ("indices", [1, 3, 0, 4], "<i4", "out of range"),
        ("indices", [-1, 3, 0, 1], "<i4", "out of range"),
        ("indices", [3, 1, 0, 1], "<i4", "columns do not ascend"),
        ("indices", [1, 1, 0, 1], "<i4", "columns do not ascend"),
        ("data", [1, 2, 3, float("nan")], "<f4", "NaN"),
        ("data", [1, float("inf"), 3, 4], "<f4", "NaN"),
        ("data", [1, 0, 3, 4], "<f4", "NaN, infinity or a zero"),
        ("shape", [4, 3], "<i8", "headers or checksums"),
        ("original_shape", [1, 4, 3], "<i8", "headers or checksums"),
    ],
)
def test_refused_matrices(name: str, values: list[float], kind: str, says: str) -> None:
    """Each is a .npz with one array changed; the message says what is wrong, and in which tensor."""
    data = patched(name, values, kind)
    with pytest.raises(PayloadError, match=f"tensor 'w': .*{says}"):
        decode_csr(tensor(data), ONE)


def test_a_matrix_patched_with_its_own_values_is_fine() -> None:
    """So each refusal above has the one cause it names; other values and columns decode to what they say."""
    assert torch.equal(decode_csr(tensor(patched("indices", [1, 3, 0, 1], "<i4")), ONE), ROWS)
    moved = decode_csr(tensor(patched("indices", [0, 2, 1, 3], "<i4")), ONE)
    assert moved.tolist() == [1, 0, 2, 0, 0, 0, 0, 0, 0, 3, 0, 4]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 1.0 + 2**-40, 1e-300])
def test_refused_scalars(value: float) -> None:
    """Eight bytes must hold a finite number of fp32."""
    layout = Layout(("s",), ((),))
    data = encode_csr(layout, torch.ones(1)).numpy()
    data[-8:] = np.frombuffer(np.float64(value).tobytes(), dtype=np.uint8)
    with pytest.raises(PayloadError, match="tensor 's'"):
        decode_csr(torch.from_numpy(data), layout)


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: p[:0], lambda p: torch.cat([p, p[:1]])])
def test_refused_lengths(change: Callable[[Tensor], Tensor]) -> None:
    """Cut short, empty, too long; and any other layout than the sender's."""
    payload = encode_csr(LAYOUT, sparse_vector(0.5))
    with pytest.raises(PayloadError):
        decode_csr(change(payload), LAYOUT)
    for other in (Layout(LAYOUT.names[:-1], SHAPES[:-1]), Layout(LAYOUT.names, ((4, 2, 9), *SHAPES[1:])), ONE):
        with pytest.raises(PayloadError):
            decode_csr(payload, other)


def damage(data: bytearray, rng: random.Random) -> bytearray:
    kind, at = rng.randrange(5), rng.randrange(len(data))
    if kind == 0:
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data = data[:at]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randint(1, 9))
    elif kind == 3:
        data[at : at + 8] = rng.choice([0, 1, 128, 129, 132, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
    else:
        data[38:54] = 2 * rng.choice([0, 128, 131, 132, 2**32, 2**64 - 1]).to_bytes(8, "little")
    return data


def test_damaged_payloads_are_valid_or_refused() -> None:
    """4,000 flipped, cut, lengthened and rewritten payloads; what decodes is finite and encodes to the same bytes."""
    rng, decoded = random.Random(5), 0
    cases = [encode_csr(LAYOUT, sparse_vector(density, i)) for i, density in enumerate((0.0, 0.1, 0.6, 1.0))]
    for _ in range(4000):
        data = damage(bytearray(rng.choice(cases).numpy().tobytes()), rng)
        payload = tensor(data)
        try:
            found = decode_csr(payload, LAYOUT)
        except PayloadError:
            continue
        decoded += 1
        assert bool(found.isfinite().all())
        assert torch.equal(encode_csr(LAYOUT, found), payload)
    assert 1 <= decoded < 2000


def valid(data: list[float], indices: list[int], indptr: list[int]) -> bool:
    """Whether three arrays are a matrix of 3x4 in compressed sparse rows without zeros, by the definition."""
    if indptr[0] != 0 or indptr[-1] != len(data) or indptr != sorted(indptr):
        return False
    rows = [indices[start:stop] for start, stop in itertools.pairwise(indptr)]
    return all(row == sorted(set(row)) and set(row) <= {0, 1, 2, 3} for row in rows) and all(data)


def test_wrong_arrays_under_right_checksums() -> None:
    """2,000 matrices with one array drawn at random: decoded, as SciPy decodes them, if and only if they are valid."""
    rng, decoded = random.Random(6), 0
    for _ in range(2000):
        arrays = {"data": [1.0, 2.0, 3.0, 4.0], "indices": [1, 3, 0, 1], "indptr": [0, 2, 2, 4]}
        name = rng.choice(list(arrays))
        arrays[name] = [rng.choice([0, 0, 1, 2, 3, 4, 4, -1, 2**31 - 1]) for _ in range(4)]
        if name == "indptr" and rng.random() < 0.5:
            arrays[name] = [0, *sorted(arrays[name][:2]), 4]
        payload = patched(name, arrays[name], "<f4" if name == "data" else "<i4")
        if valid(arrays["data"], arrays["indices"], arrays["indptr"]):
            matrix = csr_matrix(tuple(arrays.values()), shape=(3, 4), dtype=np.float32)
            assert decode_csr(tensor(payload), ONE).tolist() == matrix.toarray().reshape(-1).tolist()
            decoded += 1
        else:
            with pytest.raises(PayloadError):
                decode_csr(tensor(payload), ONE)
    assert 100 < decoded < 1900
