"""Damaged payloads of every codec. Oracle: the rule that any bytes are a valid update or a PayloadError, nothing else, and
that neither takes more memory than the model at hand warrants."""

import random

import pytest
from torch import Tensor

from compression import PayloadError
from compression.index import IndexFormat
from compression.values import value_of
from compression.wire import read_header
from tests.compression.damage import Case, LargestTensor, bounded_memory, cases, check, damaged, tensor

pytestmark = pytest.mark.slow

MANY = 50_000


def decoded(case: Case, data: Tensor) -> bool:
    """Whether `data` was decoded; if so, the update is a valid one."""
    try:
        sparse = case.decode(data)
    except PayloadError:
        return False
    check(sparse, case.n)
    return True


def test_the_undamaged_payloads_cover_every_format() -> None:
    """All decode; among them every index format, every value format, coded and not."""
    known = cases()
    assert all(decoded(case, tensor(case.payload)) for case in known)
    headers = [read_header(tensor(case.payload)) for case in known]
    assert {header.index for header in headers} == set(IndexFormat)
    assert {(header.value.code, header.entropy) for header in headers} >= {
        *((code, False) for code in range(9)),
        *((code, True) for code in (0, 2, 3, 4, 5, 6, 7, 8)),
    }
    for form in set(IndexFormat) - {IndexFormat.DENSE}:
        assert {header.entropy for header in headers if header.index is form} == {False, True}


@pytest.mark.filterwarnings("error")
@pytest.mark.timeout(400)
def test_damaged_payloads_are_valid_or_refused() -> None:
    """50,000 of them; both outcomes occur often, for every index format; no warnings; no large allocation."""
    rng, known = random.Random(7), cases()
    outcomes: dict[tuple[IndexFormat, bool], int] = {}
    with bounded_memory():
        for _ in range(MANY):
            case = rng.choice(known)
            found = decoded(case, tensor(damaged(case, known, rng)))
            form = IndexFormat(case.payload[4])
            outcomes[form, found] = outcomes.get((form, found), 0) + 1
    assert sum(outcomes.values()) == MANY
    assert all(outcomes[form, found] > 40 for form in IndexFormat for found in (False, True)), outcomes


def test_damaged_payloads_make_no_large_tensors() -> None:
    """3,000 of them: no operation returns more than a few times the elements of payload and vector."""
    rng, known = random.Random(9), cases()
    for _ in range(3000):
        case = rng.choice(known)
        data = tensor(damaged(case, known, rng))
        with LargestTensor() as largest:
            decoded(case, data)
        assert largest.elements <= 16 * (case.n + data.numel()) + 1024


@pytest.mark.parametrize("code", range(9))
def test_every_bit_of_a_header(code: int) -> None:
    """Each of 192 bits flipped, in a payload of each value format: valid or refused."""
    for case in cases():
        if case.n == 40 and case.payload[5] == code:
            assert value_of(code, case.payload[6]).code == code
            for bit in range(192):
                data = tensor(case.payload)
                data[bit // 8] ^= 1 << (bit % 8)
                decoded(case, data)
