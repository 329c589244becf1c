"""`torch.cuda` of a machine with one GPU: the names that the project and PyTorch's own Python ask for."""

import contextlib
from types import SimpleNamespace
from typing import Any

import torch

from tests.cuda_double import double
from tests.cuda_double.recorder import recorder


class Stream:
    """A stream; what it is asked to do is done at once."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device = double.DEVICE
        self.stream_id = self.cuda_stream = 0

    def wait_stream(self, other: "Stream") -> None:
        """Nothing is pending."""

    wait_event = wait_stream

    def record_event(self, event: Any = None) -> "Event":
        """A point in this stream."""
        return event or Event()

    def synchronize(self) -> None:
        """The host waits."""
        recorder.wait("synchronize")


class Event:
    """A point in a stream."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        """Now."""

    wait = record

    def synchronize(self) -> None:
        """The host waits."""
        recorder.wait("synchronize")

    def query(self) -> bool:
        """Whether it is over."""
        return True


def _seed(seed: int) -> None:
    double.generator_state = torch.Generator().manual_seed(int(seed)).get_state()


def _set_state(state: torch.Tensor, device: Any = None) -> None:
    double.generator_state = state.clone()


def install() -> None:
    """Replace them."""
    properties = SimpleNamespace(
        name="Double", major=9, minor=0, total_memory=1 << 37, multi_processor_count=132, uuid="double"
    )
    nothing = contextlib.nullcontext
    replaced: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nothing(),
        "Stream": Stream,
        "Event": Event,
        "stream": lambda stream: nothing(),
        "current_stream": Stream,
        "default_stream": Stream,
        "synchronize": lambda device=None: recorder.wait("synchronize"),
        "get_device_name": lambda device=None: "Double",
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
        "manual_seed": _seed,
        "manual_seed_all": _seed,
        "get_rng_state": lambda device=None: double.generator_state.clone(),
        "set_rng_state": _set_state,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        **dict.fromkeys(("memory_allocated", "max_memory_allocated", "memory_reserved"), lambda device=None: 0),
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
