"""Oracles: slow transcriptions of the definitions, one image at a time, and counts by hand."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.spec import SpecError
from fl.common.errors import ConfigError
from fl.data.augment import Augment
from fl.data.batches import batch_sizes, count_samples, count_steps, iterate_batches
from fl.data.dataset import Split
from fl.data.normalise import Identity, Normaliser, make_normaliser


def images(count, channels=3, height=8, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def numbered(count):
    """A split whose labels are the positions of the samples."""
    return Split(images(count), torch.arange(count))


def batches(split, indices=None, *, batch_size=4, epochs=None, steps=None, **changes):
    arguments = {"seed": 0, "augment": Augment("none"), "normalise": make_normaliser(split.x)} | changes
    indices = torch.arange(len(split)) if indices is None else indices
    steps = count_steps(len(indices), batch_size, epochs, steps)
    return list(iterate_batches(split, indices, batch_size=batch_size, steps=steps, **arguments))


def test_normaliser_matches_the_definition():
    """Oracle: mean and population standard deviation in float64."""
    x = images(50)
    normalise = Normaliser(x)
    exact = x.double()
    mean, std = exact.mean((0, 2, 3), keepdim=True), exact.std((0, 2, 3), keepdim=True, correction=0)
    assert normalise.mean == pytest.approx(mean.flatten().tolist(), rel=1e-12)
    assert normalise.std == pytest.approx(std.flatten().tolist(), rel=1e-12)
    torch.testing.assert_close(normalise(x).double(), (exact - mean) / std, rtol=0, atol=1e-6)


def test_normaliser_of_some_images(monkeypatch):
    """Oracle: a normaliser of those images alone, whatever the others are and however many are counted together."""
    x, rows = images(50), torch.tensor([3, 4, 7, 30, 49])
    monkeypatch.setattr("fl.data.normalise._TOGETHER_BYTES", 2 * x[0].numel())
    some, alone = Normaliser(x, rows), Normaliser(x[rows])
    assert (some.mean, some.std) == (alone.mean, alone.std)
    assert some.mean != Normaliser(x).mean


def test_normaliser_keeps_a_constant_channel_finite():
    """Oracle: a channel of one value has mean that value and becomes 0."""
    x = torch.full((3, 1, 2, 2), 7, dtype=torch.uint8)
    assert Normaliser(x).std == [1.0]
    assert Normaliser(x)(x).eq(0).all()


def test_numbers_pass_unchanged():
    """Oracle: the input itself; floating-point images are laid out as asked."""
    windows, pictures = torch.randn(5, 7, 3), torch.randn(5, 3, 4, 4)
    assert make_normaliser(windows)(windows, torch.channels_last) is windows
    laid = make_normaliser(pictures)(pictures, torch.channels_last)
    assert torch.equal(laid, pictures)
    assert laid.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(make_normaliser(windows), Identity)
    assert not isinstance(make_normaliser(images(2)), Identity)


def test_windows_stay_with_their_numbers():
    """Oracle: the number that every window is filled with; all come, once each."""
    values = torch.arange(11, dtype=torch.float32)
    split = Split(values[:, None, None].expand(11, 4, 2).contiguous(), values)
    found = batches(split, epochs=1)
    assert [len(y) for _, y in found] == [4, 4, 3]
    assert all(torch.equal(x, y[:, None, None].expand(-1, 4, 2)) for x, y in found)
    assert sorted(torch.cat([y for _, y in found]).tolist()) == values.tolist()


@pytest.mark.parametrize(("spec", "shape"), [("flip", (12, 4)), ("crop:1", (12,)), ("crop:1+flip", (2, 12, 4, 4))])
def test_only_images_can_be_augmented(spec, shape):
    """Oracle: one sentence that names the option and the shape; `none` is for everything."""
    with pytest.raises(
        ConfigError, match=re.escape(f"--augment {spec} is for images") + ".*" + re.escape(str([*shape]))
    ):
        Augment(spec).check_shape(shape)
    Augment("none").check_shape(shape)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normaliser_memory_format(layout):
    """Oracle: same values in either layout, laid out as asked, input untouched."""
    x = images(5)
    before = x.clone()
    y = Normaliser(x)(x, layout)
    assert y.dtype == torch.float32
    assert y.is_contiguous(memory_format=layout)
    assert torch.equal(y, Normaliser(x)(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("spec", ["crop:3", "flip", "crop:2+flip", "flip+crop:1"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 9)])
def test_augmented_images_are_crops_and_mirrors(spec, shape):
    """Oracle: the set of all crops of the padded image and of its mirror; all kinds must occur in 400 draws."""
    augment, channels, height, width = Augment(spec), *shape
    x = images(1, channels, height, width).repeat(400, 1, 1, 1)
    result = augment(x, torch.Generator().manual_seed(1))
    assert result.dtype == torch.uint8
    assert result.shape == x.shape
    wide = torch.nn.functional.pad(x[0], (augment.padding,) * 4)
    views = [wide, wide.flip(2)] if augment.flip else [wide]
    span = range(2 * augment.padding + 1)
    allowed = {
        tuple(view[:, a : a + height, b : b + width].flatten().tolist()) for view in views for a in span for b in span
    }
    got = {tuple(image.flatten().tolist()) for image in result}
    assert got <= allowed
    assert len(got) > 0.9 * len(allowed)


def test_no_augmentation_is_no_work():
    """Oracle: the very same tensor, and the generator not moved."""
    x, generator = images(3), torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert Augment("none")(x, generator) is x
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("crop", "takes 1 argument"),
        ("crop:0", "at least 1"),
        ("flip:2", "takes 0 argument"),
        ("flop", "did you mean 'flip'"),
        ("none+flip", "none only alone"),
        ("flip+flip", "each stage once"),
    ],
)
def test_unreadable_augmentation(spec, says):
    """Oracle: the message says what is wrong."""
    with pytest.raises(SpecError, match=says):
        Augment(spec)


def test_padding_beyond_the_image():
    """Oracle: a crop that could miss the whole image is refused."""
    with pytest.raises(ConfigError, match="crop:8 must be smaller than the 8x8"):
        Augment("crop:8")(images(2), torch.Generator())


@pytest.mark.parametrize(
    ("samples", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (5, 4, [5]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (0, 4, []),
    ],
)
def test_batch_sizes(samples, batch_size, sizes):
    """Oracle by hand: the short last batch is kept, a single left-over sample joins the one before."""
    assert batch_sizes(samples, batch_size) == sizes
    got = batches(numbered(max(samples, 1)), torch.arange(samples), batch_size=batch_size, epochs=2)
    assert [len(y) for _, y in got] == 2 * sizes


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 30))
def test_counts_are_those_of_the_batches(samples, batch_size, epochs, steps):
    """Oracle: the list of the batches' sizes, as often as it takes."""
    sizes = batch_sizes(samples, batch_size)
    assert count_steps(samples, batch_size, epochs, None) == epochs * len(sizes)
    assert count_samples(samples, batch_size, epochs, None) == epochs * samples
    assert count_samples(samples, batch_size, None, steps) == sum((sizes * (steps + 1))[:steps])


def test_a_client_may_claim_any_number_of_samples():
    """Whole numbers of which no list could be made. Oracle: 7 * 10^17 batches of 8, and a shorter one."""
    samples = 56 * 10**17 + 3
    assert count_steps(samples, 8, 2, None) == 2 * (7 * 10**17 + 1)
    assert count_samples(samples, 8, 1, None) == samples


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(0, 30),
    batch_size=st.integers(1, 9),
    amount=st.integers(1, 12),
    unit=st.sampled_from(["epochs", "steps"]),
)
def test_steps_are_as_counted(samples, batch_size, amount, unit):
    """Oracle: counting the batches; no batch of one unless it must be."""
    limits = {"epochs": None, "steps": None} | {unit: amount}
    got = batches(numbered(30), torch.arange(samples), batch_size=batch_size, **limits)
    assert len(got) == count_steps(samples, batch_size, **limits)
    assert samples == 1 or batch_size == 1 or all(len(y) > 1 for _, y in got)
    if unit == "steps" and samples:
        assert len(got) == amount


def test_each_epoch_uses_every_sample_in_a_new_order():
    """Oracle: labels are positions, so each epoch's labels sorted are the chosen indices, in two different orders."""
    chosen = torch.tensor([3, 5, 8, 13, 21, 22, 23])
    got = batches(numbered(30), chosen, epochs=2)
    first, second = (torch.cat([y for _, y in got[part]]) for part in (slice(0, 2), slice(2, 4)))
    assert first.sort().values.tolist() == second.sort().values.tolist() == chosen.tolist()
    assert not torch.equal(first, second)


def test_steps_go_on_cyclically_where_epochs_would():
    """Oracle: five steps of two batches an epoch are the first five batches of three epochs."""
    split = numbered(8)
    by_steps, by_epochs = batches(split, steps=5), batches(split, epochs=3)
    assert len(by_steps) == 5
    for (x, y), (wanted_x, wanted_y) in zip(by_steps, by_epochs, strict=False):
        assert torch.equal(x, wanted_x)
        assert torch.equal(y, wanted_y)


def test_images_stay_with_their_labels():
    """Oracle: the normalised image at the position that the label gives."""
    split = numbered(11)
    normalise = Normaliser(split.x)
    for x, y in batches(split, epochs=1, normalise=normalise, memory_format=torch.channels_last):
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, normalise(split.x[y]))


def test_a_function_of_the_seed_alone():
    """Oracle: the same call again with the global state changed and other batches drawn in between."""
    split, augment = numbered(20), Augment("crop:2+flip")
    torch.manual_seed(1)
    first = batches(split, epochs=2, augment=augment, seed=7)
    state = torch.get_rng_state()
    other = batches(split, epochs=2, augment=augment, seed=8)
    again = batches(split, epochs=2, augment=augment, seed=7)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("limits", [{}, {"epochs": 1, "steps": 1}])
def test_epochs_or_steps(limits):
    """Oracle: neither or both is a programming error."""
    with pytest.raises(ValueError, match="exactly one"):
        batches(numbered(4), **limits)
