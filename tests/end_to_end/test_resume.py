"""A run that is continued ends as if it had never stopped. Oracle: the uninterrupted run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from fl.common.errors import ConfigError, DataError, RoundError
from tests.support import TIMES, on_ranks, resume_here, rows, run_here

OPTIONS: dict[str, Any] = {
    "model": "tests.user_code:norm_model",
    "clients": 4,
    "clients_per_round": 3,
    "rounds": 12,
    "limit_train": 150,
    "limit_test": 50,
    "local_steps": 1,
    "batch_size": 8,
    "uplink": "topk:0.1",
    "downlink": "topk:0.2+bf16",
    "server": "fedyogi",
    "lr_schedule": "cosine",
}


def assert_same_run(one: Path, other: Path) -> None:
    """Equal weights, metrics, bytes and totals; times and the clients' ranks may differ."""
    assert rows(one) == rows(other)
    assert rows(one, "clients", (*TIMES, "rank")) == rows(other, "clients", (*TIMES, "rank"))
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    for name in ("seconds", "folder", "world_size", "launcher"):
        for summary in summaries:
            summary.pop(name)
    assert summaries[0] == summaries[1]
    weights = [(folder / "final_model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run_here(folder, "whole", **OPTIONS)
    return folder / "whole"


def stop_after(folder: Path, name: str, finished: int, **options: Any) -> None:
    """A run that fails, as a full disk or a bug would make it, in the round after the `finished`-th."""
    from fl.training.trainer import ClientTrainer

    train = ClientTrainer.train

    def failing(self: Any, job: Any, model: Any) -> Any:
        if job.number == finished:
            raise OSError("stopped here")
        return train(self, job, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientTrainer, "train", failing)
        with pytest.raises(OSError, match="stopped here"):
            run_here(folder, name, **{**OPTIONS, **options})


@pytest.mark.parametrize("checkpoint_every", [1, 3])
def test_a_run_that_failed_goes_on(tmp_path: Path, whole: Path, checkpoint_every: int) -> None:
    """Stopped in round 5: the tables hold rounds 0 to 4; rounds after the last checkpoint are run, and told, once."""
    stop_after(tmp_path, "run", 5, checkpoint_every=checkpoint_every)
    folder = tmp_path / "run"
    assert [row["round"] for row in rows(folder)] == ["0", "1", "2", "3", "4"]
    assert not (folder / "summary.json").exists()
    newest = sorted((folder / "checkpoints").glob("manifest-*.json"))[-1]
    assert json.loads(newest.read_text())["next_round"] == {1: 5, 3: 3}[checkpoint_every]
    resume_here(tmp_path, "run")
    assert_same_run(folder, whole)
    assert len(list((folder / "checkpoints").glob("manifest-*.json"))) == 2, "the last two are kept"


def test_half_written_files_do_no_harm(tmp_path: Path, whole: Path) -> None:
    """A torn csv row, a temporary file and a checkpoint without its manifest are what a kill can leave."""
    stop_after(tmp_path, "run", 4)
    folder = tmp_path / "run"
    for table in ("metrics.csv", "clients.csv"):
        with open(folder / table, "a") as file:
            file.write('4,0.25,"torn')
    checkpoints = folder / "checkpoints"
    for name in ("server-000005.safetensors", "client-000001-000005.safetensors", "manifest-000005.json.77.part"):
        (checkpoints / name).write_bytes(b"torn")
    (checkpoints / "client-000002-000005.safetensors.77.part").write_bytes(b"torn")
    resume_here(tmp_path, "run")
    assert_same_run(folder, whole)
    assert not [path for path in checkpoints.iterdir() if "part" in path.name]


def test_resume_by_path_and_moved(tmp_path: Path, whole: Path) -> None:
    """--resume PATH needs no option but that of the user's own model, also after the folder has been renamed."""
    stop_after(tmp_path, "run", 3)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(tmp_path / "run", moved)
    resume_here(tmp_path, "ignored", resume=str(moved))
    assert_same_run(moved, whole)
    assert not (tmp_path / "ignored").exists()


def test_more_rounds_after_the_end(tmp_path: Path) -> None:
    """A finished run with more --rounds is one long run: what its end delivered is taken back."""
    options = {**OPTIONS, "lr_schedule": "constant", "clients_per_round": 4}
    run_here(tmp_path, "long", **{**options, "rounds": 6})
    run_here(tmp_path, "short", **{**options, "rounds": 3})
    resume_here(tmp_path, "short", rounds=6)
    long, short = ([row | {"total": summary} for row in rows(tmp_path / name)] for name, summary in _totals(tmp_path))
    for one, other in zip(long, short, strict=True):
        assert one == other


def _totals(folder: Path) -> list[tuple[str, str]]:
    found = []
    for name in ("long", "short"):
        summary = json.loads((folder / name / "summary.json").read_text())
        for key in ("seconds", "folder"):
            summary.pop(key)
        found.append((name, json.dumps(summary)))
    return found


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path, whole: Path) -> None:
    """No round is left: the results are written again, as they were."""
    shutil.copytree(whole, tmp_path / "run")
    resume_here(tmp_path, "run")
    assert_same_run(tmp_path / "run", whole)


def test_an_existing_folder_is_never_overwritten(tmp_path: Path, whole: Path) -> None:
    """Without --resume: refused in one sentence, not a byte changed."""
    shutil.copytree(whole, tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="--resume auto"):
        run_here(tmp_path, "run", **OPTIONS)
    assert contents(tmp_path) == before


def test_auto_starts_afresh_where_there_is_no_checkpoint(tmp_path: Path, whole: Path) -> None:
    """No folder, or one in which no round was finished."""
    stop_after(tmp_path, "empty", 0)
    for name in ("none", "empty"):
        run_here(tmp_path, name, **OPTIONS, resume="auto")
        assert_same_run(tmp_path / name, whole)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": 0.123}, ["--lr 0.123", "0.05"]),
        ({"uplink": "topk:0.3"}, ["--uplink topk:0.3", "topk:0.1"]),
        ({"seed": 5}, ["--seed 5"]),
        ({"clients": 9}, ["--clients 9", "4"]),
        ({"threads": 2}, ["--threads 2", "1"]),
        ({"local_epochs": 1}, ["--local-epochs 1"]),
        ({"mode": "step", "uplink": "none"}, ["--mode step"]),
        ({"rounds": 3}, ["--rounds 3", "12"]),
    ],
)
def test_options_that_contradict_the_stored_ones_are_refused(
    tmp_path: Path, whole: Path, given: dict[str, Any], words: list[str]
) -> None:
    """One sentence names the option, both values and the folder; nothing has changed."""
    shutil.copytree(whole, tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as caught:
        resume_here(tmp_path, "run", **given)
    for word in words:
        assert word in str(caught.value)
    assert contents(tmp_path) == before


def test_other_samples_are_refused(tmp_path: Path) -> None:
    """A table whose rows have become fewer: the same options are not the same run."""
    table = tmp_path / "table.csv"
    lines = [f"{n % 7},{n % 3},{'ab'[n % 2]}" for n in range(80)]
    table.write_text("\n".join(["u,v,y", *lines]) + "\n")
    options = {"dataset": f"csv:{table},target=y", "model": "mlp", "rounds": 2, "limit_train": None, "augment": "auto"}
    run_here(tmp_path, "run", **options)
    before = contents(tmp_path / "run")
    resume_here(tmp_path, "run")
    table.write_text("\n".join(["u,v,y", *lines[:60]]) + "\n")
    with pytest.raises(ConfigError, match=r"no longer has the samples with which .*run was begun"):
        resume_here(tmp_path, "run", rounds=3)
    after = contents(tmp_path / "run")
    assert {name: after[name] for name in after if name.endswith(".csv")} == {
        name: before[name] for name in before if name.endswith(".csv")
    }


def test_a_model_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own function makes a larger network than before."""
    import tests.user_code as module

    run_here(tmp_path, "run", **{**OPTIONS, "rounds": 1, "lr_schedule": "constant"})
    original = module.norm_model
    monkeypatch.setattr(module, "norm_model", lambda *shape: nn.Sequential(original(*shape), nn.Linear(10, 10)))
    with pytest.raises(
        ConfigError, match=r"--model tests.user_code:norm_model has \d+ parameters now, the checkpoint has"
    ):
        resume_here(tmp_path, "run", rounds=2)


def _other_samples(rank: int, world_size: int, folder: Path) -> None:
    with pytest.raises(DataError, match="ranks read different samples"):
        run_here(folder, "run", dataset="tests.user_code:samples_of_this_rank", model="lenet5", limit_train=None)


def test_ranks_with_different_samples_are_refused(tmp_path: Path) -> None:
    """Two machines whose files are not the same."""
    on_ranks(2, _other_samples, tmp_path)


@pytest.mark.parametrize("resume", ["nowhere", ""])
def test_resume_of_no_run_is_refused(tmp_path: Path, resume: str) -> None:
    """--resume PATH where there is no checkpoint."""
    with pytest.raises(ConfigError, match="--resume"):
        run_here(tmp_path, "run", resume=str(tmp_path / resume))
    assert not list(tmp_path.iterdir())


_PAIRS: dict[str, dict[str, Any]] = {
    "step": {"mode": "step", "uplink": "topk:0.1", "optimizer": "adam", "lr": 0.01},
    "step-momentum": {"mode": "step", "uplink": "prune:0.9,scope=layer+fp16", "momentum": 0.9},
    "step-channels-last": {"mode": "step", "uplink": "none", "precision": "bf16", "model": "lenet5", "momentum": 0.9},
    "hook": {"exchange": "hook", "uplink": "topk:0.1", "downlink": "topk:0.2", "server": "fedadam"},
}
_COMMON: dict[str, Any] = {
    "model": "tests.user_code:norm_model",
    "limit_train": 100,
    "local_steps": 2,
    "batch_size": 8,
}


def _stop_and_go_on(rank: int, world_size: int, folder: Path, name: str) -> None:
    options = {**_COMMON, **_PAIRS[name]}
    run_here(folder, f"{name}-whole", **options, rounds=6)
    run_here(folder, name, **options, rounds=4)
    resume_here(folder, name, rounds=6)


@pytest.mark.parametrize("name", list(_PAIRS))
def test_hooks_and_step_mode_go_on_too(tmp_path: Path, name: str) -> None:
    """On two ranks: residuals by name and the local optimizer's state come back."""
    on_ranks(2, _stop_and_go_on, tmp_path, name)
    whole, stopped = tmp_path / f"{name}-whole", tmp_path / name
    assert (whole / "final_model.safetensors").read_bytes() == (stopped / "final_model.safetensors").read_bytes()
    assert rows(whole, "clients") == rows(stopped, "clients")
    without = (*TIMES, "downlink_bytes", "downlink_dense_bytes")
    assert rows(whole, without=without) == rows(stopped, without=without)


def test_a_foreign_hook_cannot_be_continued(tmp_path: Path) -> None:
    """Its state stays unknown, so the run would not be the uninterrupted one: refused, nothing changed."""
    hook = "torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook:powerSGD_hook"
    run_here(tmp_path, "run", **_COMMON, exchange="hook", hook=hook, rounds=2, clients=1)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="powerSGD_hook"):
        resume_here(tmp_path, "run", rounds=4)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("rewind", [False, True])
def test_the_file_of_init_need_not_be_there_any_more(tmp_path: Path, rewind: bool) -> None:
    """Nor be what it was: gone, or with other weights. With rewinding every new mask goes back to these weights."""
    first = tmp_path / "first.safetensors"
    run_here(tmp_path, "first", **OPTIONS | {"rounds": 1, "seed": 5})
    (tmp_path / "first" / "final_model.safetensors").rename(first)
    kept = first.read_bytes()
    options = OPTIONS | {"rounds": 6, "init": str(first)}
    if rewind:
        options |= {"prune": "magnitude:0.5,protect=none,rewind", "prune_schedule": "linear:0,5,2"}
    run_here(tmp_path, "whole", **options)
    stop_after(tmp_path, "cut", 3, **options)
    first.unlink()
    shutil.copytree(tmp_path / "cut", tmp_path / "copy" / "cut")
    resume_here(tmp_path, "cut", init=str(first))
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert json.loads((tmp_path / "cut" / "config.json").read_text())["init"] == str(first)
    first.write_bytes(kept[:-4] + bytes(4))
    resume_here(tmp_path / "copy", "cut")
    assert_same_run(tmp_path / "copy" / "cut", tmp_path / "whole")


_COLUMNS = "client,compute_flops,up_bytes,down_bytes,latency_s,loss,jitter\n"
_PROFILES = _COLUMNS + "".join(f"{client},1e9,1e6,1e6,0,0,0\n" for client in range(4))


@pytest.mark.parametrize(
    ("option", "text", "others"),
    [
        ("capabilities", "client,capability\n0,1\n1,0.5\n2,0.5\n3,0.5\n", {"prune": "magnitude:0,protect=none"}),
        ("sampling", "client,first_round,last_round\n0,0,9\n1,0,9\n2,0,9\n3,0,9\n", {}),
        ("profiles", _PROFILES, {}),
    ],
)
def test_a_file_of_an_option_that_has_changed_is_refused(tmp_path: Path, option: str, text: str, others: Any) -> None:
    """An edited file, and one that is gone; brought back, the run goes on as if nothing had been."""
    path = tmp_path / "file.csv"
    path.write_text(text)
    options = OPTIONS | others | {"rounds": 4, "lr_schedule": "constant", option: str(path)}
    run_here(tmp_path, "whole", **options)
    stop_after(tmp_path, "cut", 2, **options)
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=rf"--{option} .*file\.csv no longer holds"):
        resume_here(tmp_path, "cut")
    path.unlink()
    with pytest.raises(ConfigError, match=rf"--{option} .*file\.csv no longer holds"):
        resume_here(tmp_path, "cut")
    path.write_text(text)
    resume_here(tmp_path, "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def _damaged(rank: int, world_size: int, folder: Path) -> None:
    options = {**OPTIONS, "lr_schedule": "constant", "clients_per_round": 4}
    run_here(folder, "whole", **options)
    run_here(folder, "run", **{**options, "rounds": 9})
    newest = folder / "run" / "checkpoints" / "client-000001-000009.safetensors"
    if rank == 0:
        data = newest.read_bytes()
        newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    dist.barrier()
    resume_here(folder, "run", rounds=12)


def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(tmp_path: Path) -> None:
    """One bit of a state that rank 1 of two reads: both go back a round, and end in the bits of a run without damage."""
    on_ranks(2, _damaged, tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    log = (tmp_path / "run" / "run.log").read_text()
    assert "client-000001-000009.safetensors is damaged" in log
    assert "the run goes on from the checkpoint before, and round 8 is trained again" in log


def _elsewhere(rank: int, world_size: int, folder: Path) -> None:
    with pytest.raises(DataError, match=r"server-000012.* cannot be read .*--output-dir must be a folder that all"):
        resume_here(folder / str(rank), "run")


def test_a_machine_that_lacks_the_files(tmp_path: Path, whole: Path) -> None:
    """Rank 1 sees the manifests and not the server's files: both ranks say so, and neither goes on from an older one."""
    for rank in (0, 1):
        shutil.copytree(whole, tmp_path / str(rank) / "run")
    for path in (tmp_path / "1").rglob("server-*"):
        path.unlink()
    on_ranks(2, _elsewhere, tmp_path)


def _edited(rank: int, world_size: int, folder: Path, name: str) -> None:
    with pytest.raises((DataError, RoundError)) as caught:
        resume_here(folder, "run", rounds=15)
    assert (f"{name} has changed" if rank == 0 else "rank 0 failed, and says why") in str(caught.value)


@pytest.mark.parametrize("name", ["metrics.csv", "partition.json"])
def test_an_edited_record_is_told_before_training(tmp_path: Path, name: str) -> None:
    """A digit of a table, a letter of partition.json: refused on every rank, and nothing else has changed."""
    run_here(tmp_path, "run", **{**OPTIONS, "lr_schedule": "constant"})
    path = tmp_path / "run" / name
    text = path.read_bytes()
    path.write_bytes(
        text.replace(b"0.2", b"0.3", 1) if name == "metrics.csv" else text.replace(b'"labels"', b'"lebals"')
    )
    before = contents(tmp_path)
    on_ranks(2, _edited, tmp_path, name)
    after = contents(tmp_path)
    assert {key for key in after if after[key] != before.get(key)} <= {"run/lock.json"}


def test_an_edited_config_is_told_before_training(tmp_path: Path, whole: Path) -> None:
    """Another learning rate in config.json, which no option contradicts: refused by its name, and nothing has changed."""
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lr": 0.06}))
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json has lr 0\.06, the checkpoint was made with 0\.05"):
        resume_here(tmp_path, "run")
    assert {name: text for name, text in contents(tmp_path).items() if "lock" not in name} == {
        name: text for name, text in before.items() if "lock" not in name
    }
