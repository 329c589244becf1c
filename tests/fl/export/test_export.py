"""Export. Oracles: the run's own final model and accuracy, the file sizes on disk, hand-made models for what the formats
must refuse; the page's example."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compression import Layout, PayloadError
from fl.common.errors import ConfigError, DataError
from fl.data.normalise import Normaliser
from fl.export import KINDS, export_run, load, load_small, read_structure
from fl.export.__main__ import main
from fl.export.payload import pack, unpack
from fl.models.quantise import fake_quantise, quantise
from tests.support import ROOT, run_here

pytestmark = pytest.mark.slow

_RUN = {
    "rounds": 8,
    "batch_size": 8,
    "limit_train": 600,
    "eval_every": 8,
    "uplink": "none",
    "lr": 0.02,
    "checkpoint_every": 0,
}
_FILTERS = {"prune": "filters:0.5,protect=vectors", "prune_schedule": "oneshot:4"}
_RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filters": _FILTERS,
    "magnitude": {"prune": "magnitude:0.9", "prune_schedule": "cubic:1,6,1", "qat": 8},
    "norms": {
        "model": "tests.fl.export.test_export:norms",
        "prune": "filters:0.5,protect=none",
        "prune_schedule": "oneshot:4",
    },
    "tied": {"model": "tests.fl.export.test_export:tied", "prune": "filters:0.5", "rounds": 1},
}


def norms(classes: int, in_channels: int) -> nn.Module:
    """Padded convolutions with BatchNorm: constants that are not zero must stay."""
    layers: list[nn.Module] = []
    for inputs in (in_channels, 12):
        layers += [nn.Conv2d(inputs, 12, 3, 2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 64, 32), nn.ReLU(), nn.Linear(32, classes))


def tied(classes: int, in_channels: int) -> nn.Module:
    """Two layers with one weight, which can lose no channel."""
    first, second = nn.Linear(48, 48), nn.Linear(48, 48)
    second.weight = first.weight
    start = [nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16 * in_channels, 48)]
    return nn.Sequential(*start, first, nn.ReLU(), second, nn.ReLU(), nn.Linear(48, classes))


def _own(name: str) -> str | None:
    """The model of one of the runs, where it is a function of this module."""
    model: str | None = _RUNS[name].get("model")
    return model


def inputs(export: Path, count: int) -> Tensor:
    """Inputs that the export never saw."""
    structure = read_structure(export)
    return torch.randn(count, structure.in_channels, structure.image_size, structure.image_size) * 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Finished runs by name: their folders, and what export.json says."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, options in _RUNS.items():
        run_here(folder, name, **{**_RUN, **options})
        bits = None if "qat" in options else 8
        found[name] = (folder / name, export_run(folder / name, bits=bits, model=_own(name)))
    return found


@pytest.mark.parametrize("name", list(_RUNS))
def test_every_file_gives_the_model_back(runs: dict[str, Any], name: str) -> None:
    """The exact forms bit for bit, the integer forms as `quantise` makes them; sizes are those on disk."""
    folder, report = runs[name]
    export, state = folder / "export", load_file(folder / "final_model.safetensors")
    for kind in ("model", "payload"):
        read = load(export, kind, model=_own(name))
        assert not read.training
        assert all(torch.equal(read.state_dict()[key], state[key]) for key in state)
    stored = quantise(read, 8)
    integers = load_file(export / "quantised.safetensors")
    for key, tensor in stored.integers.items():
        assert integers[key].dtype == torch.int8
        assert torch.equal(integers[key], tensor)
        assert torch.equal(integers[key + ".scale"], stored.scales[key])
    forms = [load(export, kind, model=_own(name)).state_dict() for kind in ("quantised", "quantised payload")]
    assert all(torch.equal(forms[0][key], forms[1][key]) for key in state)
    assert report == json.loads((export / "export.json").read_text())
    on_disk = {path.name: path.stat().st_size for path in export.iterdir()}
    del on_disk["export.json"], on_disk["structure.json"]
    assert on_disk == {file: values["bytes"] for file, values in report["files"].items()}


@pytest.mark.parametrize("name", ["plain", "filters", "magnitude"])
def test_accuracies_are_the_runs(runs: dict[str, Any], name: str) -> None:
    """fp32 without --qat: the same accuracy. With --qat: the integer model's, but for the roundings of fp32."""
    _, report = runs[name]
    files = report["files"]
    measured = files["quantised.safetensors" if "qat" in _RUNS[name] else "model.safetensors"]["test_accuracy"]
    assert measured == pytest.approx(report["run_test_accuracy"], abs=0.003 if "qat" in _RUNS[name] else 0)
    assert files["quantised.safetensors"]["test_accuracy"] == pytest.approx(report["run_test_accuracy"], abs=0.03)
    assert report["run_test_accuracy"] > 0.5


def test_the_integer_model_is_what_training_saw(runs: dict[str, Any]) -> None:
    """With --qat, the exported integers compute what the fake-quantised fp32 model does."""
    export = runs["magnitude"][0] / "export"
    seen, x = load(export), inputs(export, 32)
    fake_quantise(seen, 8)
    with torch.no_grad():
        torch.testing.assert_close(load(export, "quantised")(x), seen(x), rtol=1e-3, atol=1e-3)


def test_a_pruned_model_is_small_on_disk(runs: dict[str, Any]) -> None:
    """A tenth of the inner weights at the size of a tenth, and a quarter of that in integers."""
    folder, report = runs["magnitude"]
    state = load_file(folder / "final_model.safetensors")
    dense = 4 * sum(tensor.numel() for tensor in state.values())
    assert report["nonzero"] == sum(int((tensor != 0).sum()) for tensor in state.values())
    assert report["files"]["model.leanfed"]["bytes"] < 4 * report["nonzero"] * 1.2 < 0.2 * dense
    assert report["files"]["quantised.leanfed"]["bytes"] < 0.5 * report["files"]["model.leanfed"]["bytes"]
    masks = load_file(folder / "export" / "mask.safetensors")
    assert masks
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, state[name] != 0)
    assert "mask.safetensors" not in runs["plain"][1]["files"]


@pytest.mark.parametrize("name", ["filters", "norms"])
def test_the_smaller_model_computes_the_same(runs: dict[str, Any], name: str) -> None:
    """For inputs that the export never saw; with as many parameters and channels as the report says."""
    folder, report = runs[name]
    whole, small = (make(folder / "export", model=_own(name)) for make in (load, load_small))
    x = inputs(folder / "export", 8)
    with torch.no_grad():
        expected = whole(x)
        torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert sum(p.numel() for p in small.parameters()) == report["small"]["parameters"] < 0.6 * report["parameters"]
    structure = json.loads((folder / "export" / "structure.json").read_text())
    assert report["small"]["removed_channels"] > report["small"]["folded_channels"]
    for layers, kept in structure["kept"].items():
        for layer in layers.split("+"):
            assert small.get_submodule(layer).weight.shape[0] == len(kept)
    accuracy = report["files"]["small.safetensors"]["test_accuracy"]
    assert accuracy == pytest.approx(report["files"]["model.safetensors"]["test_accuracy"], abs=0.003)


def test_no_smaller_model_of_what_has_no_dead_channels(runs: dict[str, Any]) -> None:
    """And the loader says so."""
    folder, report = runs["plain"]
    assert "small" not in report
    with pytest.raises(DataError, match=r"small\.safetensors cannot be read"):
        load_small(folder / "export")


def test_an_export_replaces_an_earlier_one(runs: dict[str, Any], tmp_path: Path) -> None:
    """Elsewhere, first with integers, then without: none are left behind; the first has the bits that were asked for."""
    folder = runs["plain"][0]
    first = export_run(folder, tmp_path / "out", bits=4)
    assert first["bits"] == read_structure(tmp_path / "out").bits == 4
    assert int(load_file(tmp_path / "out" / "quantised.safetensors")["0.weight"].abs().max()) == 7
    assert load(tmp_path / "out", "quantised")[0].quantised_bits == 4
    assert set(export_run(folder, tmp_path / "out")["files"]) == {"model.safetensors", "model.leanfed"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("model.safetensors", "model.leanfed", "structure.json", "export.json"),
    }


def test_inputs_are_described(runs: dict[str, Any]) -> None:
    """structure.json has the mean and standard deviation that training divided by."""
    from fl.data import load_dataset
    from fl.data.split import split_validation
    from fl.run.folder import stored_options

    folder = runs["plain"][0]
    config = stored_options(folder)
    data = load_dataset(config, seed=config.seed)
    at, _ = split_validation(len(data.train), config.val_fraction, config.seed)
    normalise, structure = Normaliser(data.train.x[torch.from_numpy(at)]), read_structure(folder / "export")
    assert (structure.mean, structure.std) == (normalise.mean, normalise.std)


@pytest.mark.parametrize("kind", list(KINDS))
def test_damaged_files_are_refused(runs: dict[str, Any], tmp_path: Path, kind: str) -> None:
    """Absent, empty, cut short, of another model, or not finite: one sentence with the file's name."""
    source = runs["filters"][0] / "export"
    other = runs["norms"][0] / "export"
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "structure.json").write_bytes((source / "structure.json").read_bytes())
    file = KINDS[kind]
    good = (source / file).read_bytes()
    contents: list[bytes | None] = [None, b"", good[:-3], good[: len(good) // 2], (other / file).read_bytes()]
    for content in contents:
        if content is not None:
            (copy / file).write_bytes(content)
        with pytest.raises(DataError, match=file):
            load(copy, kind)
    (copy / file).write_bytes(good)
    load(copy, kind)


def test_integers_out_of_range_are_refused(runs: dict[str, Any], tmp_path: Path) -> None:
    """A payload can hold any numbers; only those that int8 arithmetic allows are weights."""
    source = runs["plain"][0] / "export"
    (tmp_path / "structure.json").write_bytes((source / "structure.json").read_bytes())
    weights = load_file(source / "quantised.safetensors")
    for value in (-128, 0.5):
        spoilt = {**weights, "0.weight": torch.full_like(weights["0.weight"], value, dtype=torch.float32)}
        save_file(spoilt, tmp_path / "quantised.safetensors")
        with pytest.raises(DataError, match=r"other numbers than the integers -127 \.\.\. 127"):
            load(tmp_path, "quantised")


def test_payloads() -> None:
    """One after another, zeros and the order included; one byte too many is one too many."""
    a = {"w": torch.tensor([[0.0, -127, 3], [0, 0, 127]]), "v": torch.zeros(4)}
    b = {"bias": torch.randn(5)}
    layouts = [Layout.of(a.items()), Layout.of(b.items())]
    data = pack(a.values(), integers=True) + pack(b.values())
    for read, given in zip(unpack(data, layouts), (a, b), strict=True):
        assert list(read) == list(given)
        assert all(torch.equal(read[name], given[name]) for name in given)
    every = torch.arange(-127.0, 128)
    assert torch.equal(unpack(pack([every], integers=True), [Layout.of([("x", every)])])[0]["x"], every)
    with pytest.raises(PayloadError, match="1 bytes too many"):
        unpack(data + b"\0", layouts)
    with pytest.raises(PayloadError):
        unpack(data, layouts[:1])
    with pytest.raises(PayloadError):
        unpack(data, [*layouts, layouts[0]])


def test_layers_that_share_weights(runs: dict[str, Any]) -> None:
    """A tensor with two names is in every file under both; where no channel can be removed, the report says why."""
    folder, report = runs["tied"]
    model = load(folder / "export", "quantised payload", model=_own("tied"))
    assert model[3].weight is model[5].weight
    assert {"3.weight", "5.weight"} <= load_file(folder / "export" / "quantised.safetensors").keys()
    assert "small.safetensors" not in report["files"]
    assert report["small"]["refused"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such/folder"], "no/such/folder is no run folder"),
        (["{run}", "--bits", "9"], "--bits 9 must be 0"),
        (["{run}", "--bits", "three"], "--bits"),
        (["{run}", "--bit", "8"], "--bit"),
        (["{unfinished}"], "only a finished run"),
        ([], "RUN_FOLDER"),
    ],
)
def test_mistakes_are_one_line(
    runs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """On stderr, with exit status 2."""
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_bytes((runs["plain"][0] / "config.json").read_bytes())
    with pytest.raises(SystemExit) as raised:
        main([argument.format(run=runs["plain"][0], unfinished=unfinished) for argument in arguments])
    assert raised.value.code == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_a_folder_that_cannot_be_written_to(
    runs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file has its name: one line, and exit status 1, since the options are right."""
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit) as raised:
        main([str(runs["plain"][0]), "--output", str(tmp_path / "out")])
    assert raised.value.code == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'out'} cannot be used (File exists): mend that, then export again\n"
    )


def test_a_folder_names_no_code_that_is_called(runs: dict[str, Any], tmp_path: Path) -> None:
    """Neither to export a run nor to load what was exported: only a function that is named once more is called.

    Oracle: the folder that `shutil.rmtree` would have deleted, with all that is in it.
    """
    victim, hostile = tmp_path / "victim", tmp_path / "hostile"
    (victim / "kept").mkdir(parents=True)
    hostile.mkdir()
    options = json.loads((runs["plain"][0] / "config.json").read_text())
    for own in ({"dataset": "shutil:rmtree", "data_dir": str(victim)}, {"model": "shutil:rmtree"}):
        (hostile / "config.json").write_text(json.dumps({**options, **own}))
        name = next(iter(own))
        with pytest.raises(ConfigError, match=f"names --{name} shutil:rmtree, .* again if you trust it"):
            export_run(hostile)
        with pytest.raises(ConfigError, match=f"--{name} other:function differs from shutil:rmtree"):
            export_run(hostile, **{name: "other:function"})
    structure = json.loads((runs["plain"][0] / "export" / "structure.json").read_text())
    (hostile / "structure.json").write_text(json.dumps({**structure, "model": "shutil:rmtree"}))
    with pytest.raises(ConfigError, match="say model='shutil:rmtree' if you trust it"):
        load(hostile)
    assert (victim / "kept").is_dir()


def test_wrong_folders_and_kinds(runs: dict[str, Any], tmp_path: Path) -> None:
    """Each in one sentence."""
    with pytest.raises(ConfigError, match="there is no kind 'int8'"):
        load(runs["plain"][0] / "export", "int8")
    with pytest.raises(DataError, match="no exported model"):
        load(tmp_path)
    (tmp_path / "structure.json").write_text('{"model": "lenet5"}')
    with pytest.raises(DataError, match="does not describe"):
        load(tmp_path)
    structure = json.loads((runs["plain"][0] / "export" / "structure.json").read_text())
    (tmp_path / "structure.json").write_text(json.dumps({**structure, "format": 2}))
    with pytest.raises(DataError, match="format 2"):
        load(tmp_path)


def test_the_page_works(
    runs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/export.md: its export command on a run like its own, then its Python block, whose three models agree."""
    page = (ROOT / "docs" / "export.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (command,) = re.findall(r"^python -m fl\.export (.*)$", page, flags=re.MULTILINE)
    shutil.copytree(runs["filters"][0], tmp_path / "outputFolder" / "pruned")
    monkeypatch.chdir(tmp_path)
    main(command.split())
    printed = capsys.readouterr().out
    assert re.search(r"^small\.safetensors .* test accuracy", printed, flags=re.MULTILINE)
    scope: dict[str, Any] = {}
    exec(compile(block, "classify.py", "exec"), scope)
    logits = scope["logits"]
    torch.testing.assert_close(logits["small"], logits["whole"], rtol=1e-3, atol=1e-3)
    agreed = (logits["int8"].argmax(1) == logits["whole"].argmax(1)).float().mean()
    assert agreed > 0.7
