"""What samples look like, so that others read theirs alike: a server tells it to sites that have data of their own."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fl.common.errors import DataError

from .dataset import Dataset, Split
from .normalise import Normaliser


@dataclass(frozen=True)
class Schema:
    """`kind`: of samples, as torch calls its type; `shape`: of one. `classes`, `class_names` and `target`: as of a
    `Dataset`. `mean` and `std`: of a `Normaliser`, by channel. `encoding`: what else the reader of the files has taken from
    them (`Dataset.encoding`).
    """

    kind: str
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    target: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoding: str

    @property
    def encoded(self) -> Mapping[str, Any]:
        """What `encoding` holds."""
        found: dict[str, Any] = json.loads(self.encoding) if self.encoding else {}
        return found

    def told(self) -> dict[str, Any]:
        """What two data sets must have in common, in words."""
        return {
            "type of a sample": self.kind,
            "shape of a sample": list(self.shape),
            "number of classes": self.classes,
            "list of classes": list(self.class_names),
            **self.encoded,
        }

    def to_json(self) -> str:
        """Numbers come back exactly."""
        return json.dumps(dataclasses.asdict(self))


def schema_of(data: Dataset, normalise: Normaliser) -> Schema:
    """What the samples of `data` look like, which `normalise` makes inputs of."""
    return Schema(
        kind=str(data.train.x.dtype).removeprefix("torch."),
        shape=data.sample_shape,
        classes=data.classes,
        class_names=data.class_names,
        target=data.target,
        mean=tuple(normalise.mean),
        std=tuple(normalise.std),
        encoding=data.encoding,
    )


def read_schema(text: str) -> Schema:
    """The inverse of `Schema.to_json`; DataError for what is none."""
    try:
        values: dict[str, Any] = json.loads(text)
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return Schema(**given)
    except (ValueError, TypeError, AttributeError):
        raise DataError("the server has sent no description of its data") from None


def joined(data: Dataset) -> Dataset:
    """All samples of `data`, whatever split they were in, as training samples."""
    splits = [split for split in (data.train, data.validation, data.test) if split is not None]
    every = Split(torch.cat([split.x for split in splits]), torch.cat([split.y for split in splits]))
    return dataclasses.replace(data, train=every, validation=None, groups=None)


def fitted(data: Dataset, schema: Schema, option: str) -> Dataset:
    """The training samples of `data`, as the server would name them; DataError, which `option` opens, that says what differs
    from what `schema` says."""
    mine, theirs = (each.told() for each in (schema_of(data, Normaliser.of(schema.mean, schema.std)), schema))
    for what, value in theirs.items():
        if mine.get(what) != value:
            raise DataError(f"{option}: the {what} is {mine.get(what)}, and in the server's data {value}")
    return dataclasses.replace(data, validation=None, groups=None, target=schema.target)
