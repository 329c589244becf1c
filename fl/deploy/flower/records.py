"""Messages in Flower's records, and their size."""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from ..protocol import Record


def to_records(record: Record) -> RecordDict:
    """A message's values and payloads, which Flower carries as bytes, untouched."""
    values, sections = record
    return RecordDict({"values": ConfigRecord(values), "sections": ConfigRecord(dict(sections))})


def from_records(records: RecordDict) -> Record:
    """The inverse of `to_records`; of other records what there is."""
    found = records.config_records
    values: Mapping[str, Any] = found.get("values", {})
    sections: Mapping[str, Any] = found.get("sections", {})
    return dict(values), {name: each for name, each in sections.items() if isinstance(each, bytes)}


def size(message: Message) -> int:
    """Bytes of a message as Flower stores and sends it: of all its objects, without the headers of HTTP and TLS."""
    return _size(message)


def _size(thing: Any) -> int:
    return len(thing.deflate()) + sum(map(_size, (thing.children or {}).values()))
