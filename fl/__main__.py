"""The command `leanfed`, also `python -m fl` and `python main.py`: a run, or one of the programs around runs."""

import importlib
import os
import sys
from typing import Any

from fl.common.stopping import stopping

PROGRAMS = {
    "advise": "fl.advise.__main__:main",
    "certificates": "fl.deploy.certificates:main",
    "compare": "fl.compare.__main__:main",
    "completion": "fl.completion:main",
    "deploy": "fl.deploy.__main__:main",
    "describe": "compression.__main__:describe",
    "experiment": "fl.experiment.__main__:main",
    "export": "fl.export.__main__:main",
    "report": "fl.output.__main__:main",
}
"""By first word of the command line: the function that takes the others. Without such a word it is a run."""


def main(defaults: dict[str, Any] | None = None) -> None:
    """The program that the command line asks for. `defaults` replace those of the options of a run."""
    # A rank that is gone is told in a sentence, not in C++ frames.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sys.path.append(os.getcwd())  # where a user's own modules are; an installed command does not look there by itself
    if sys.argv[1:2] and sys.argv[1] in PROGRAMS:
        module, _, function = PROGRAMS[sys.argv[1]].partition(":")
        getattr(importlib.import_module(module), function)(sys.argv[2:])
        return
    with stopping.on_signals():  # from here on, while the rest is imported
        from fl.run.cli import main as run

        run(defaults=defaults)


if __name__ == "__main__":
    main()
