"""How far this process is with its work, which `heart` tells the other ranks."""

import contextlib
from collections.abc import Iterator


class _Work:
    """How far this process is with its work: steps only ever grow, `doing` names the clients that it trains."""

    steps = 0
    doing = ""
    is_first_round = True  # it imports, compiles and tunes: to compute, however long, is progress too

    @contextlib.contextmanager
    def on(self, *clients: int) -> Iterator[None]:
        """In this block these clients are trained."""
        self.doing = f"client{'s' * (len(clients) > 1)} {', '.join(map(str, clients))}"
        try:
            yield
        finally:
            self.doing = ""


work = _Work()
"""Of this process. During rounds, whoever does a batch or anything else of some length adds 1 to `work.steps`."""
