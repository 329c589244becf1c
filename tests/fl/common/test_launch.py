"""What the launchers' variables mean."""

import os

import pytest

from fl.common.errors import LaunchError
from fl.common.launch import Place, detect_launcher, is_first_here, read_place, start_all_of_accelerate

TORCH = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "9",
}
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
}
NODES = {"SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "4", "SLURM_LOCALID": "0"}
NODES |= {"SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_STEP_NODELIST": "gpu[03-05],login", "SLURM_NODEID": "2"}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    **{"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
ALONE = {**STEP, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
BATCH = {name: value for name, value in STEP.items() if name != "SLURM_STEP_NUM_TASKS"} | {"SLURM_PROCID": "0"}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.fixture
def variables(monkeypatch):
    """Sets these variables of a launcher, and no others."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "MV2_", "PMI", "MPI_", "ACCELERATE_", "MASTER_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK"):
        monkeypatch.delenv(name, raising=False)

    def put(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("given", "launcher"),
    [
        ({}, "python"),
        ({"RANK": "0"}, "torchrun"),
        ({"RANK": "0", "CROSS_RANK": "0"}, "deepspeed"),
        (ACCELERATE, "accelerate"),
        ({"RANK": "0", **ACCELERATE}, "accelerate"),
        ({"ACCELERATE_LOG_LEVEL": "info"}, "python"),
        (STEP, "srun"),
        (BATCH, "python"),
        ({**STEP, **TORCH, "TORCHELASTIC_RUN_ID": "x"}, "torchrun"),
        (OPEN_MPI, "mpirun"),
    ],
)
def test_launchers_are_told_apart_by_what_they_export(variables, given, launcher):
    """A variable that a user exports for good does not make a launcher, nor does a batch script of Slurm."""
    variables(given)
    assert detect_launcher() == launcher


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1"}, Place()),
        (TORCH, Place(1, 4, 1, 2, "a", 9)),
        ({**STEP, "SLURM_STEP_ID": "0"}, Place(1, 2, 1, 2, "127.0.0.1", ...)),
        (STEP, Place(1, 2, 1, 2, "127.0.0.1", ...)),
        (
            {**STEP, "SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "4", "SLURM_LOCALID": "0", **NODES},
            Place(4, 5, 0, 1, "gpu03", ...),
        ),
        ({**STEP, "MASTER_ADDR": "b", "MASTER_PORT": "12"}, Place(1, 2, 1, 2, "b", 12)),
        ({**STEP, "WORLD_SIZE": "2"}, Place(1, 2, 1, 2, "127.0.0.1", ...)),
        ({**STEP, **TORCH}, Place(1, 4, 1, 2, "a", 9)),
        (BATCH, Place()),
        ({**BATCH, "SLURM_STEP_ID": "batch"}, Place()),
        ({**STEP, "SLURM_STEP_ID": "4294967290"}, Place()),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, Place()),
        (OPEN_MPI, Place(1, 2, 1, 2, "127.0.0.1", 29500)),
        ({**OPEN_MPI, "PMIX_NAMESPACE": "123"}, Place(1, 2, 1, 2, "127.0.0.1", ...)),
        ({**STEP, **OPEN_MPI, "SLURM_PROCID": "0"}, Place(1, 2, 1, 2, "127.0.0.1", 29500)),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"}, Place(0, 2, 0, 2, "127.0.0.1", 29500)),
        (MPICH, Place(1, 2, 1, 2, "127.0.0.1", 29500)),
        ({"PMI_RANK": "1", "PMI_SIZE": "3"}, Place(1, 3, 1, 3, "127.0.0.1", 29500)),
        ({**STEP, "PMI_RANK": "1", "PMI_SIZE": "2"}, Place(1, 2, 1, 2, "127.0.0.1", ...)),
        ({"RANK": "", "WORLD_SIZE": ""}, Place()),
        (
            {**STEP, "RANK": "", "OMPI_COMM_WORLD_RANK": "", "OMPI_COMM_WORLD_SIZE": ""},
            Place(1, 2, 1, 2, "127.0.0.1", ...),
        ),
        (
            {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_STEP_NODELIST": "n2"},
            Place(1, 4, 1, 2, "n1", 29500),
        ),
        ({**MPICH, "PMI_SIZE": "4", "SLURM_JOB_NODELIST": "n-[1,3]-x[7-9],m"}, Place(1, 4, 1, 2, "n-1-x7", 29500)),
    ],
)
def test_the_place_that_a_launcher_gives(variables, given, place):
    """Worked out by hand from the launchers' manuals, and from what Open MPI 4.1 and MPICH 4.0 export. A port `...` follows
    from the job's number, and is the same for all of its ranks."""
    variables(given)
    found = read_place()
    if place.port is ...:
        assert 20000 <= found.port < 32000
        place = Place(place.rank, place.world_size, place.local_rank, place.local_world_size, place.address, found.port)
    assert found == place


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE is 2", "RANK is not set", "torchrun"]),
        ({"RANK": "0"}, ["RANK is 0", "WORLD_SIZE is not set"]),
        ({**TORCH, "RANK": "4"}, ["no rank 4 of 4"]),
        ({**TORCH, "RANK": "zero"}, ["RANK is 'zero'"]),
        ({**TORCH, "WORLD_SIZE": "0"}, ["no rank 1 of 0"]),
        ({**TORCH, "MASTER_ADDR": ""}, ["MASTER_ADDR is not set"]),
        ({**TORCH, "MASTER_PORT": ""}, ["MASTER_PORT is not set"]),
        ({**TORCH, "MASTER_PORT": "http"}, ["MASTER_PORT is 'http'"]),
        ({**TORCH, "MASTER_PORT": "70000"}, ["MASTER_PORT is 70000", "65535"]),
        ({**TORCH, "RANK": "-1"}, ["RANK is '-1'"]),
        ({**TORCH, "LOCAL_RANK": "x"}, ["LOCAL_RANK is 'x'"]),
        ({**TORCH, "LOCAL_RANK": "2"}, ["LOCAL_RANK is 2", "LOCAL_WORLD_SIZE 2"]),
        ({**TORCH, "LOCAL_WORLD_SIZE": "8"}, ["LOCAL_WORLD_SIZE 8", "WORLD_SIZE 4"]),
        ({**STEP, "WORLD_SIZE": "8"}, ["WORLD_SIZE is 8", "srun started 2"]),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4"}, ["several machines", "MASTER_ADDR"]),
        ({**ACCELERATE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, ["one process", "MULTI_GPU"]),
        ({**ACCELERATE, **ALONE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, ["one process", "MULTI_GPU"]),
    ],
)
def test_variables_that_do_not_fit_together_are_refused_in_one_sentence(variables, given, words):
    """The sentence names the variable and what it is."""
    variables(given)
    with pytest.raises(LaunchError) as caught:
        read_place()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_one_process_of_a_machine_tells_of_a_mistake(variables, monkeypatch):
    """The one whose local rank is 0, whichever launcher says so."""
    assert is_first_here()
    for given, name in ((TORCH, "LOCAL_RANK"), (STEP, "SLURM_LOCALID"), (OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_RANK")):
        with monkeypatch.context() as patch:
            for key, value in given.items():
                patch.setenv(key, value)
            assert not is_first_here()
            patch.setenv(name, "0")
            assert is_first_here()


def test_a_lone_process_of_accelerate_starts_the_others(variables, monkeypatch, tmp_path):
    """The command line of the parent, with --multi_gpu in it; without such a parent nothing is started."""
    started = []
    monkeypatch.setattr(os, "execv", lambda path, words: started.append(words[1:]))
    variables(ACCELERATE)
    start_all_of_accelerate()
    assert not started, "one process is what was asked for"
    variables({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    command = tmp_path / "cmdline"
    monkeypatch.setattr("fl.common.launch._PARENT", str(command))
    start_all_of_accelerate()
    assert not started, "nothing is known of the parent"
    for launch in (["python", "/bin/accelerate", "launch"], ["python", "-m", "accelerate.commands.launch"]):
        command.write_text("\0".join([*launch, "--cpu", "--config_file", "a b.yaml", "main.py", "--lr", "1", ""]))
        start_all_of_accelerate()
    again = ["-m", "accelerate.commands.launch", "--multi_gpu", "--config_file", "a b.yaml", "main.py", "--lr", "1"]
    assert started == [again, again]
    command.write_text("\0".join(["python", *again, ""]))
    start_all_of_accelerate()
    assert len(started) == 2, "it would not end"
