"""Writes a finished run's model in every form, and measures what each one is worth."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fl.common.config import Config, refuse_stored_code, stored_options
from fl.common.errors import ConfigError, DataError
from fl.common.files import disk_told, read_json, write_json
from fl.common.paths import expand, expanded
from fl.common.ranks import Ranks
from fl.common.tensor_files import read_tensors, save_tensors
from fl.data import Split, load_dataset
from fl.data.normalise import make_normaliser
from fl.data.split import divide
from fl.models.bits import MAX_BITS, MIN_BITS
from fl.models.quantise import dequantise, quantise
from fl.models.surgery.dead import Reduced, remove_dead
from fl.training.evaluate import Forward, evaluate
from fl.training.tasks import make_task

from .load import KINDS, SCALE, load, quantised_layouts
from .payload import pack
from .structure import STRUCTURE_FILE, Structure

_MASK_FILE = "mask.safetensors"
_REPORT_FILE = "export.json"
_TRIAL_IMAGES = 64


def export_run(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    bits: int | None = None,
    data_dir: str | None = None,
    dataset: str | None = None,
    model: str | None = None,
) -> dict[str, Any]:
    """Export the model of the finished run in `folder` to `output` (default: FOLDER/export); returns export.json.

    Every form that the run allows is written, read back, and evaluated on the test data in fp32 (`data_dir`: where they
    lie, if not where the run found them). `bits`: 4 to 8 for integer weights too, 0 for none; default: the run's own
    `--qat`. `dataset`, `model`: those of the run once more, where they are `package.module:function`, which is not called
    because a folder says so. Raises ConfigError for a folder that holds no finished run, for other bits and for another
    data set or model, DataError for missing data.
    """
    folder = expanded(str(folder))
    config = _trusted(folder, {"dataset": dataset, "model": model})
    bits = config.qat if bits is None else bits
    if bits and not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"--bits {bits} must be 0 (no integers) or {MIN_BITS} to {MAX_BITS}")
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=expand(data_dir, "--data-dir"))
    else:  # a folder that the user has not named is only read
        config = dataclasses.replace(config, download=False)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    output = expanded(str(output or folder / "export"))
    with disk_told(output, lambda: "export again"):
        return _Export(folder, output, config, bits).go()


def _trusted(folder: Path, given: dict[str, str | None]) -> Config:
    """The run's options as far as an export needs them; ConfigError if they differ from those given, or name code that is
    not given."""
    config = stored_options(folder)
    for name, value in given.items():
        if value not in (None, getattr(config, name)):
            raise ConfigError(f"--{name} {value} differs from {getattr(config, name)}, with which {folder} was run")
    config = dataclasses.replace(config, cache_dir=None, uplink="none", downlink="none", deepspeed_config=None)
    refuse_stored_code(folder, config, given)
    return config


class _Export:
    """One export: the parts of the run that it needs, and the report as far as it got."""

    def __init__(self, folder: Path, output: Path, config: Config, bits: int) -> None:
        self.folder, self.output, self.config, self.bits = folder, output, config, bits
        data = load_dataset(config, seed=config.seed)
        train_at, _ = divide(data, config.val_fraction, config.seed)
        self.test: Split = data.test
        self.task = make_task(data)
        self.normalise = make_normaliser(data.train.x, torch.from_numpy(train_at))
        self.structure = Structure(
            model=config.model,
            stem=config.stem,
            norm=config.norm,
            classes=data.classes,
            in_channels=data.channels,
            image_size=data.image_size,
            mean=self.normalise.mean,
            std=self.normalise.std,
            bits=bits,
            sample_shape=list(data.sample_shape),
            target=None if data.classes else list(data.target),
            seed=config.seed,
            tokens=data.is_text,
        )
        self.model = self.structure.build(config.model)
        self.state = self._final_state()
        self.structure = dataclasses.replace(self.structure, integers=self._changed_integers())
        self.model.load_state_dict(self.state)
        self.files: dict[str, dict[str, Any]] = {}

    def _final_state(self) -> dict[str, Tensor]:
        path = self.folder / "final_model.safetensors"
        try:
            return read_tensors(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): only a finished run can be exported") from None

    def _changed_integers(self) -> dict[str, Any]:
        built = self.model.state_dict()
        return {
            name: tensor.tolist()
            for name, tensor in self.state.items()
            if not tensor.is_floating_point() and name in built and not torch.equal(tensor, built[name])
        }

    def go(self) -> dict[str, Any]:
        """Write, read back, evaluate, report."""
        self.output.mkdir(parents=True, exist_ok=True)
        for name in (*KINDS.values(), _MASK_FILE, STRUCTURE_FILE, _REPORT_FILE):
            (self.output / name).unlink(missing_ok=True)  # of an earlier export, perhaps with other bits
        reduced, refusal = self._reduce()
        kept = None if reduced is None else reduced.kept
        write_json(self.output / STRUCTURE_FILE, dataclasses.replace(self.structure, kept=kept).to_json())
        self._write_exact()
        if self.bits:
            self._write_integers()
        score = self.task.score.name
        report: dict[str, Any] = {
            "run": self.folder.name,
            f"run_test_{score}": self._summary().get(f"final_test_{score}"),
            "bits": self.bits,
            **_counts(self.model),
        }
        if reduced is not None:
            self._write(KINDS["small"], reduced.model.state_dict())
            self._measure("small")
            report["small"] = {
                **_counts(reduced.model),
                "removed_channels": reduced.removed,
                "folded_channels": reduced.folded,
            }
        elif refusal is not None:
            report["small"] = {"refused": refusal}
        report["files"] = self.files
        write_json(self.output / _REPORT_FILE, report)
        return report

    def _write_exact(self) -> None:
        self._write(KINDS["model"], self.state)
        masks = {name: p.detach() != 0 for name, p in self.model.named_parameters() if bool((p == 0).any())}
        if masks and self.config.prune != "none":
            self._write(_MASK_FILE, masks)
        floats = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        self._write(KINDS["payload"], pack(floats))
        self._measure("model")
        self._same("payload", self.state, "model")

    def _write_integers(self) -> None:
        weights = quantise(self.model, self.bits)
        scales = {name + SCALE: tensor for name, tensor in weights.scales.items()}
        named = {**weights.integers, **scales, **weights.rest}
        self._write(KINDS["quantised"], named)
        first, second = quantised_layouts(self.model)
        data = pack([named[name] for name in first.names], integers=True) + pack([named[name] for name in second.names])
        self._write(KINDS["quantised payload"], data)
        self._measure("quantised")
        self._same("quantised payload", dequantise(weights), "quantised")

    def _write(self, name: str, content: dict[str, Tensor] | bytes) -> None:
        path = self.output / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:  # tensors that layers share must not share memory in such a file
            save_tensors(path, {key: tensor.detach().clone() for key, tensor in content.items()})
        self.files[name] = {"bytes": path.stat().st_size}

    def _measure(self, kind: str) -> None:
        """Read a form back and evaluate it on the test data."""
        alone = Ranks(0, 1, 0, 1, torch.device("cpu"), torch.device("cpu"), "python", torch.get_num_threads())
        forward = Forward(
            load(self.output, kind, model=self.config.model),
            self.normalise,
            autocast=None,
            memory_format=torch.contiguous_format,
            seed=self.config.seed,
        )
        metrics = evaluate(forward, self.test, alone, self.task).metrics
        self.files[KINDS[kind]] |= {f"test_{name}": value for name, value in metrics.items()}

    def _same(self, kind: str, state: dict[str, Tensor], measured: str) -> None:
        """Read a form back: the same numbers as in one that was measured are worth the same. DataError otherwise."""
        read = load(self.output, kind, model=self.config.model).state_dict()
        for name, tensor in read.items():
            if tensor.is_floating_point() and not torch.equal(tensor, state[name]):
                raise DataError(f"{self.output / KINDS[kind]} does not give '{name}' back as it was")
        known = self.files[KINDS[measured]]
        self.files[KINDS[kind]] |= {key: value for key, value in known.items() if key.startswith("test_")}

    def _reduce(self) -> tuple[Reduced | None, str | None]:
        """The model without dead channels, if the run pruned any; or why there is none, if it pruned whole channels."""
        if self.config.prune == "none":
            return None, None
        structured = self.config.prune.startswith(("filters", "structured"))
        try:
            reduced = remove_dead(self.model, self.normalise(self.test.x[:_TRIAL_IMAGES]))
        except ValueError as error:
            return None, str(error) if structured else None
        if reduced is None and structured:
            return None, "no channel can be removed so that the model computes the same"
        return reduced, None

    def _summary(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        return read_json(path) if path.exists() else {}


def _counts(model: nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.count_nonzero()) for p in parameters),
    }
