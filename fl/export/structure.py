"""structure.json: what is needed to build the network again, without the data and without the run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fl.common.config import ModelOptions
from fl.common.errors import ConfigError, DataError
from fl.common.files import read_json
from fl.models import build_model, is_own

STRUCTURE_FILE = "structure.json"
_FORMAT = 1


@dataclass(frozen=True)
class Structure:
    """The network (as `--model`, `--stem` and `--norm` name it), the samples it takes, and how it was made smaller.

    `mean`, `std`: of each channel, in pixel values 0 ... 255; inputs are (pixel - mean) / std. Both are empty for other
    samples than images, which the network takes as the data set's loader scales them. `bits`: of the integer weights, 0
    without. `kept`: the channels of every group (its layers joined by `+`) in small.safetensors, None without.
    `sample_shape`: of one sample; None: a square image. `target`: where `classes` is 0, a prediction is
    output * target[1] + target[0]. `seed`: of what the network draws when it is built and keeps outside its state.
    `tokens`: whether samples are text. `integers`: by name, tensors of whole numbers and truth values that are others than a
    network has when it is built.
    """

    model: str
    stem: str
    norm: str
    classes: int
    in_channels: int
    image_size: int
    mean: list[float]
    std: list[float]
    bits: int = 0
    kept: dict[str, list[int]] | None = None
    sample_shape: list[int] | None = None
    target: list[float] | None = None
    seed: int = 0
    integers: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokens: bool = False
    format: int = _FORMAT

    def build(self, own: str | None = None) -> nn.Module:
        """The whole network in evaluation, its weights still those of an untrained one.

        `own`: `model` once more where that is a function of the user's own; ConfigError without.
        """
        if is_own(str(self.model)) and own != self.model:
            raise ConfigError(f"the exported model is the code {self.model}: say model='{self.model}' if you trust it")
        options: Any = {"model": self.model, "stem": self.stem, "norm": self.norm}
        model = build_model(
            ModelOptions(**options),
            classes=self.classes,
            in_channels=self.in_channels,
            image_size=self.image_size,
            sample_shape=None if self.sample_shape is None else tuple(self.sample_shape),
            seed=self.seed,
            tokens=self.tokens,
        )
        named = model.state_dict()
        for name, value in self.integers.items():
            named[name].copy_(torch.tensor(value))
        return model.eval()

    def to_json(self) -> dict[str, Any]:
        """What structure.json holds."""
        return dataclasses.asdict(self)


def read_structure(folder: str | Path) -> Structure:
    """The structure of an exported model; DataError if `folder` holds none that this program reads."""
    path = Path(folder) / STRUCTURE_FILE
    try:
        structure = Structure(**read_json(path))
    except OSError as error:
        raise DataError(f"{folder} holds no exported model: cannot read {path} ({error.strerror})") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} does not describe an exported model ({error})") from None
    if structure.format != _FORMAT:
        raise DataError(f"{path} has format {structure.format}; this program reads format {_FORMAT}")
    return structure
