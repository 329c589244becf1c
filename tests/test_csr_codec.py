"""`Bandwidth Analysis/csr_codec.py`, a codec by plug-in. Oracle: `scipy.sparse.csr_matrix` and `numpy.savez` as the report
uses them; for damaged payloads the rule that any bytes decode to a valid vector, which encodes to the same bytes, or raise
PayloadError."""

import io
import itertools
import random
import zlib
from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.sparse import csr_matrix
from torch import Tensor

from compression import Layout, NonFiniteError, PayloadError, Sender, make_codec
from fl.common.config import ModelOptions
from fl.models import build_model
from tests.compression.cases import EXAMPLES, bits, layers, vectors

CSR = make_codec("csr_codec:csr")  # its folder is on pytest's Python path
SHAPES = ((4, 2, 3, 3), (4,), (), (5, 7), (0, 3), (2, 3, 1), (0,), (1, 1))
LAYOUT = Layout(tuple("abcdefgh"), SHAPES)


def sparse_vector(density: float, seed: int = 0, layout: Layout = LAYOUT) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(layout.total, generator=generator)
    return values * (torch.rand(layout.total, generator=generator) < density)


def as_matrix(tensor: Tensor) -> csr_matrix:
    return csr_matrix(tensor.numpy().reshape(prod(tensor.shape[:-1]), tensor.shape[-1]))


def encode(layout: Layout, x: Tensor) -> Tensor:
    return CSR.encode(x, layout)[0]


def decode(payload: Tensor, layout: Layout) -> Tensor:
    return CSR.decode(payload, layout.total, layout).dense()


def report_bytes(tensors: list[Tensor]) -> int:
    """What the report counts: the length of each tensor's file as NumPy writes it."""
    total = 0
    for tensor in tensors:
        file = io.BytesIO()
        if tensor.dim() > 1:
            m = as_matrix(tensor)
            np.savez(
                file, data=m.data, indices=m.indices, indptr=m.indptr, shape=m.shape, original_shape=tuple(tensor.shape)
            )
        else:
            np.save(file, tensor.numpy())
        total += len(file.getvalue())
    return total


def widened(tensors: list[Tensor]) -> list[Tensor]:
    """Scalars take eight bytes."""
    return [tensor if tensor.dim() else tensor.double() for tensor in tensors]


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_arrays_are_scipys(density: float) -> None:
    """Each file is read by `numpy.load`; its arrays, their types included, are SciPy's."""
    x = sparse_vector(density)
    payload, position = encode(LAYOUT, x).numpy().tobytes(), 0
    for tensor in LAYOUT.views(x):
        size = report_bytes(widened([tensor]))
        read = np.load(io.BytesIO(payload[position : position + size]), allow_pickle=False)
        position += size
        if tensor.dim() > 1:
            matrix = as_matrix(tensor)
            assert sorted(read.files) == ["data", "indices", "indptr", "original_shape", "shape"]
            for name in ("data", "indices", "indptr"):
                assert np.array_equal(read[name], getattr(matrix, name))
                assert read[name].dtype == getattr(matrix, name).dtype
            assert tuple(read["shape"]) == matrix.shape
            assert tuple(read["original_shape"]) == tuple(tensor.shape)
        else:
            assert read.shape == tuple(tensor.shape)
            assert np.array_equal(read, tensor.numpy())
    assert position == len(payload) == report_bytes(widened(LAYOUT.views(x)))


@EXAMPLES
@given(x=vectors())
def test_round_trip(x: Tensor) -> None:
    """The same bits, but for -0.0 in a matrix; `encode` says what arrives; NumPy's size; encoding again: the same bytes."""
    layout = layers(x.numel())
    before = bits(x)
    payload, said = CSR.encode(x, layout)
    assert bits(x) == before
    views = layout.views(x)
    assert payload.dtype == torch.uint8
    assert payload.numel() == report_bytes(widened(views))
    decoded = decode(payload, layout)
    assert bits(said.dense()) == bits(decoded)
    for found, sent in zip(layout.views(decoded), views, strict=True):
        assert bits(found) == bits(sent + 0.0 if sent.dim() > 1 else sent)
    assert torch.equal(encode(layout, decoded), payload)


def test_the_reports_figure() -> None:
    """Oracle: the report's own way of counting, and the sum from the network's shapes: 163,296,402 bytes for the whole
    unpruned state and 8 less for each weight pruned; the payload is as long as that."""
    model = build_model(ModelOptions(model="resnet12"), classes=10, in_channels=1, image_size=28, seed=0)
    state = model.state_dict()
    weights = [tensor for tensor in state.values() if tensor.dim() > 1]
    for weight in weights:
        weight[weight == 0] = 1e-9  # about one of 17 million first weights is zero
    nnz, rows = 17_430_080, 5_923_018
    assert (len(weights), sum(w.numel() for w in weights)) == (29, nnz)
    assert sum(w.numel() // w.shape[-1] for w in weights) == rows
    assert report_bytes(list(state.values())) == 8 * nnz + 4 * (rows + 29) + 37_742 + 125_832 == 163_296_402

    layout = Layout.of(state.items())
    flat = torch.cat([tensor.reshape(-1).float() for tensor in state.values()])
    payload = encode(layout, flat)
    assert payload.numel() == 163_296_402
    assert torch.equal(decode(payload, layout), flat)

    pruned = 0
    for weight in weights:
        weight.view(-1)[: weight.numel() * 4 // 5] = 0
        pruned += weight.numel() * 4 // 5
    flat = torch.cat([tensor.reshape(-1).float() for tensor in state.values()])
    assert encode(layout, flat).numel() == 163_296_402 - 8 * pruned


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(value: float) -> None:
    """Refused in every tensor, before anything is written."""
    for offset, size in zip(LAYOUT.offsets, LAYOUT.sizes, strict=False):
        if size:
            x = sparse_vector(0.5)
            x[offset] = value
            with pytest.raises(NonFiniteError):
                encode(LAYOUT, x)


def test_no_tensors() -> None:
    """Nothing takes no bytes."""
    nothing = Layout((), ())
    assert encode(nothing, torch.empty(0)).numel() == 0
    assert decode(torch.empty(0, dtype=torch.uint8), nothing).numel() == 0


def test_what_it_says_of_itself() -> None:
    """Exact and dense, so error feedback has nothing to remember; it needs the layers, whose shapes a mask takes away."""
    assert (CSR.spec, CSR.lossless, CSR.by_shape, CSR.sparse, CSR.plain) == ("csr_codec:csr", True, True, False, False)
    sender = Sender(CSR, "residual")
    payload, decoded = sender.encode(sparse_vector(0.5), LAYOUT)
    sender.keep()
    assert not sender.state_dict()
    assert torch.equal(decode(payload, LAYOUT), decoded.dense())
    with pytest.raises(ValueError, match="pass a layout"):
        CSR.encode(torch.ones(5))


ONE = Layout(("w",), ((1, 3, 4),))
ROWS = torch.tensor([[0, 1.0, 0, 2.0], [0, 0, 0, 0], [3.0, 4.0, 0, 0]]).reshape(-1)


def tensor(data: bytes | bytearray) -> Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def patched(name: str, values: list[float], kind: str) -> bytes:
    """ROWS with one array of the .npz overwritten, checksums made right again."""
    data = bytearray(encode(ONE, ROWS).numpy().tobytes())
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
        decode(tensor(data), ONE)


def test_a_matrix_patched_with_its_own_values_is_fine() -> None:
    """So each refusal above has the one cause it names; other values and columns decode to what they say."""
    assert torch.equal(decode(tensor(patched("indices", [1, 3, 0, 1], "<i4")), ONE), ROWS)
    moved = decode(tensor(patched("indices", [0, 2, 1, 3], "<i4")), ONE)
    assert moved.tolist() == [1, 0, 2, 0, 0, 0, 0, 0, 0, 3, 0, 4]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 1.0 + 2**-40, 1e-300])
def test_refused_scalars(value: float) -> None:
    """Eight bytes must hold a finite number of fp32."""
    layout = Layout(("s",), ((),))
    data = encode(layout, torch.ones(1)).numpy()
    data[-8:] = np.frombuffer(np.float64(value).tobytes(), dtype=np.uint8)
    with pytest.raises(PayloadError, match="tensor 's'"):
        decode(torch.from_numpy(data), layout)


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: p[:0], lambda p: torch.cat([p, p[:1]])])
def test_refused_lengths(change: Callable[[Tensor], Tensor]) -> None:
    """Cut short, empty, too long; and any other layout than the sender's."""
    payload = encode(LAYOUT, sparse_vector(0.5))
    with pytest.raises(PayloadError):
        decode(change(payload), LAYOUT)
    for other in (Layout(LAYOUT.names[:-1], SHAPES[:-1]), Layout(LAYOUT.names, ((4, 2, 9), *SHAPES[1:])), ONE):
        with pytest.raises(PayloadError):
            decode(payload, other)


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
    cases = [encode(LAYOUT, sparse_vector(density, i)) for i, density in enumerate((0.0, 0.1, 0.6, 1.0))]
    for _ in range(4000):
        data = damage(bytearray(rng.choice(cases).numpy().tobytes()), rng)
        payload = tensor(data)
        try:
            found = decode(payload, LAYOUT)
        except PayloadError:
            continue
        decoded += 1
        assert bool(found.isfinite().all())
        assert torch.equal(encode(LAYOUT, found), payload)
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
            assert decode(tensor(payload), ONE).tolist() == matrix.toarray().reshape(-1).tolist()
            decoded += 1
        else:
            with pytest.raises(PayloadError):
                decode(tensor(payload), ONE)
    assert 100 < decoded < 1900
