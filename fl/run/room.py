"""Whether there is room for what clients keep between rounds: in memory, or else on disk."""

import shutil
from pathlib import Path

from fl.common.errors import ConfigError
from fl.common.sizes import say_size
from fl.rounds.base import Rounds
from fl.rounds.sampling import asked
from fl.training.worker import Worker

_WORTH_SAYING = 1_000_000_000  # bytes, where they fit into memory


def check_room(worker: Worker, rounds: Rounds, folder: Path) -> str:
    """A sentence about what the clients of this run will keep, if it is worth one; else nothing.

    `folder`: the run folder, or the one that it is to be made in. ConfigError if it does not fit on that disk either.
    """
    config = worker.config
    assert config.clients is not None
    number = 2 if config.state_dtype == "bf16" else 4
    each = rounds.kept_vectors * worker.state.parameters.numel() * number
    clients = min(config.clients, asked(config) * config.all_rounds)
    total, memory = clients * each, rounds.states.budget * (worker.ranks.world_size // config.ranks_per_client)
    disk = max(0, total - memory)
    if config.checkpoint_every:
        # Beside the newest states those that the checkpoint before has, and those of one that is being written.
        disk = total + 2 * min(clients, asked(config) * config.checkpoint_every) * each
    words = f"{clients:,} clients x {say_size(each)} that each keeps between rounds: {say_size(total)}"
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    has = sum(path.stat().st_size for path in there.glob("checkpoints/client-*.safetensors"))
    free = shutil.disk_usage(there).free + has
    if disk > free:
        raise ConfigError(
            f"{words}, and with its checkpoints {say_size(disk)} on disk, but {there} has room for {say_size(free)}: choose "
            "another --output-dir, --state-dtype bf16, or fewer --clients"
        )
    if total <= memory:
        return "" if total < _WORTH_SAYING else f"{words}, in memory (--state-budget)"
    return f"{words}; of these {say_size(memory)} stay in memory (--state-budget), and the rest is read from disk"
