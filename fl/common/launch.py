"""What the launcher says in the environment: which process this is among how many, and where they meet.

torchrun, accelerate and deepspeed set RANK; srun and the mpirun of Open MPI, MVAPICH, MPICH and Intel MPI have variables of
their own.
"""

import contextlib
import os
import re
import shlex
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import LaunchError

_MPI = (
    *(
        (f"{name}_RANK", f"{name}_SIZE", f"{name}_LOCAL_RANK", f"{name}_LOCAL_SIZE")
        for name in ("OMPI_COMM_WORLD", "MV2_COMM_WORLD")
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
"""Rank, ranks, and the same on this machine, as each kind of mpirun says them."""

_USUAL_PORT = 29500
_PARENT = f"/proc/{os.getppid()}/cmdline"
_NO_STEP = 0xFFFFFFF0  # from here on Slurm's steps are no srun: the batch script, an interactive shell, ...


@dataclass(frozen=True)
class Place:
    """This process among the others; `address` and `port` of rank 0 are None for a process alone."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str | None = None
    port: int | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The same in torch's variables, where Accelerate and DeepSpeed look for it."""
        if self.address is None:
            return {}
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """After this block the environment is as before it. Libraries write there which rank this is, and the next run in this
    process would take that for a launcher's word."""
    variables = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)


def detect_launcher() -> str:
    """The program that started this process: python, torchrun, accelerate, deepspeed, mpirun or srun."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        return "accelerate"
    if os.environ.get("RANK") and "CROSS_RANK" in os.environ:
        return "deepspeed"
    if os.environ.get("RANK") and "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    if _mpi_names() is not None:
        return "mpirun"
    if _slurm_tasks() is not None:
        return "srun"
    return "torchrun" if os.environ.get("RANK") else "python"


def read_place() -> Place:
    """The place that the environment gives this process; LaunchError if the variables do not fit together."""
    if os.environ.get("RANK"):
        return _from_torch()
    if _is_one_of_many():
        raise LaunchError(
            "accelerate launch started one process where num_processes asks for more: set distributed_type: MULTI_GPU "
            "in its file, or give --multi_gpu, for CPUs too"
        )
    names = _mpi_names()
    if names is None and _slurm_tasks() is None:
        if _number("WORLD_SIZE", 1) != 1:
            raise LaunchError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and RANK is not set: start the ranks with torchrun, or give each "
                "its RANK too"
            )
        return Place()
    place = _from_slurm() if names is None else _from_mpi(*names)
    if _number("WORLD_SIZE", place.world_size) != place.world_size:
        raise LaunchError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {detect_launcher()} started {place.world_size}: unset it"
        )
    return place


def is_first_here() -> bool:
    """Whether this process is the first on its machine, and so the one that tells the user of a mistake that all make."""
    names = _mpi_names()
    name = "LOCAL_RANK" if os.environ.get("RANK") else names[2] if names else "SLURM_LOCALID" if _slurm_tasks() else ""
    return os.environ.get(name, "0") == "0"


def start_all_of_accelerate() -> None:
    """Under `accelerate launch` with several CPU processes start them all: in place of this process, if it can be done.

    Accelerate leaves that to mpirun, and without it starts one process, whatever its file says. With --multi_gpu the same
    command starts them all.
    """
    if not _is_one_of_many():
        return
    words = _parent_words()
    ends = [at for at, word in enumerate(words[:5]) if re.search(r"(^|/)(accelerate-)?launch(\.py)?$|\.launch$", word)]
    if ends and "--multi_gpu" not in words and "--multi-gpu" not in words:
        rest = [word for word in words[ends[0] + 1 :] if word != "--cpu"]
        sys.stderr.write("accelerate launch: one process came; starting all of them, as with --multi_gpu\n")
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *rest])


def command_with(*options: str) -> str:
    """The command line that starts this program again, under torchrun or Accelerate if they started it, with these options
    alone; to be copied into a shell."""
    own = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    parent = _parent_words() if "TORCHELASTIC_RUN_ID" in os.environ else []
    if sys.argv[0] in parent:
        own = parent[: parent.index(sys.argv[0]) + 1]
    return shlex.join([*own, *options])


def _parent_words() -> list[str]:
    """The command line of the process that started this one; empty where it cannot be read."""
    parent = Path(_PARENT)
    return parent.read_text(errors="surrogateescape").split("\0")[:-1] if parent.is_file() else []


def _is_one_of_many() -> bool:
    """Whether Accelerate means several processes and started this one alone: then it says where they should meet."""
    placed = os.environ.get("RANK") or _mpi_names() is not None or _slurm_tasks() not in (None, "1")
    return detect_launcher() == "accelerate" and "MASTER_PORT" in os.environ and not placed


def _from_torch() -> Place:
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise LaunchError(f"RANK is {os.environ['RANK']} and {name} is not set: start the ranks with torchrun")
    local = "LOCAL_WORLD_SIZE" if os.environ.get("LOCAL_WORLD_SIZE") else "LOCAL_SIZE"
    return _checked(_number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK", 0), _number(local, 1))


def _mpi_names() -> tuple[str, str, str, str] | None:
    """The variables of the mpirun that started this process, or None."""
    found = [names for names in _MPI if all(os.environ.get(name) for name in names[:2])]
    placed = [names for names in found if all(os.environ.get(name) for name in names[2:])]
    # srun too sets PMI_RANK, but says which process this is on its machine in variables of its own.
    return placed[0] if placed else found[0] if found and _slurm_tasks() is None else None


def _from_mpi(rank: str, ranks: str, local_rank: str, local_ranks: str) -> Place:
    place = _number(rank), _number(ranks)
    local = _number(local_rank, place[0]), _number(local_ranks, place[1])
    # What step a process of mpirun is in, if any, differs from machine to machine.
    address = "127.0.0.1" if local[1] == place[1] else _first_host(os.environ.get("SLURM_JOB_NODELIST", ""))
    return _checked(*place, *local, address=address, key=os.environ.get("PMIX_NAMESPACE"))


def _slurm_tasks() -> str | None:
    """How many tasks srun started, this process among them; None outside of srun, as in a batch script."""
    if "SLURM_PROCID" not in os.environ:
        return None
    step = os.environ.get("SLURM_STEP_ID", os.environ.get("SLURM_STEPID", ""))
    if step and (not step.isdigit() or int(step) >= _NO_STEP):
        return None
    return os.environ.get("SLURM_STEP_NUM_TASKS") or (os.environ.get("SLURM_NTASKS") if step else None)


def _from_slurm() -> Place:
    tasks = "SLURM_STEP_NUM_TASKS" if os.environ.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    on_each = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    local = [int(count) for count, times in on_each for _ in range(int(times or 1))] or [_number(tasks)]
    key = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID', 0)}"
    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    return _checked(
        _number("SLURM_PROCID"),
        _number(tasks),
        _number("SLURM_LOCALID", 0),
        local[_number("SLURM_NODEID", 0) % len(local)],
        address="127.0.0.1" if len(local) == 1 else _first_host(hosts),
        key=key,
    )


def _first_host(hosts: str) -> str | None:
    """The first machine of Slurm's list: gpu03 of gpu[03-05,9],login."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0]) if first and first[0] else None


def _checked(
    rank: int, ranks: int, local_rank: int, local_ranks: int, *, address: str | None = None, key: str | None = None
) -> Place:
    """The place. Rank 0 is at MASTER_ADDR and MASTER_PORT, else at `address` and at a port that follows from the `key`."""
    launcher = detect_launcher()
    if not rank < ranks or not local_ranks:
        raise LaunchError(f"{launcher}: there is no rank {rank} of {ranks}: ranks count from 0")
    if not local_rank < local_ranks <= ranks and os.environ.get("LOCAL_WORLD_SIZE"):
        raise LaunchError(
            f"LOCAL_RANK is {local_rank}, LOCAL_WORLD_SIZE {local_ranks} and WORLD_SIZE {ranks}: LOCAL_RANK counts from 0 "
            "to LOCAL_WORLD_SIZE - 1, and a machine has at most all ranks"
        )
    address = os.environ.get("MASTER_ADDR") or address
    if address is None:
        raise LaunchError(
            f"{launcher} started ranks on several machines: export MASTER_ADDR, the name of the machine of rank 0"
        )
    # Below the ports that the system hands out, so that jobs on one machine rarely meet.
    port = _number("MASTER_PORT", _USUAL_PORT if key is None else 20000 + zlib.crc32(key.encode()) % 12000)
    if not 0 < port < 2**16:
        raise LaunchError(f"MASTER_PORT is {port}: a port is a number from 1 to 65535")
    return Place(rank, ranks, local_rank, local_ranks, address, port)


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch("[0-9]{1,9}", text):
        raise LaunchError(f"{name} is '{text}': it must be a whole number of at least 0")
    return int(text)
