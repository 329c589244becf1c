"""A matrix of runs from one YAML file: arms that differ only in what they declare to vary, each with several seeds.
May import every other room.

`python -m fl.experiment FILE.yaml`; the file is explained in docs/experiments.md.
"""

from .runs import run_experiment
from .spec import Experiment, read_experiment

__all__ = ["Experiment", "read_experiment", "run_experiment"]
