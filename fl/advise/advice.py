"""The whole of it: real updates, every codec on them, a table and a recommendation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from fl.clock.profiles import Profile
from fl.common.config import Config
from fl.common.errors import ConfigError

from .candidates import WAYS, candidates
from .choose import Pair, Round, recommend
from .links import links_of
from .measure import Measured, measure_downlink, measure_uplink
from .updates import recorded


@dataclass(frozen=True)
class Advice:
    """Every codec up and down, `none` first; all pairs of them, the fastest first, the dense one, and the advised one.

    `link`: as the user wrote it. `named`: codecs that the user named.

    `messages`: after how many of a client's and of the server's messages `Measured.behind` was taken.
    """

    config: Config
    link: str
    named: frozenset[str]
    coordinates: int
    round: Round
    messages: tuple[int, int]
    ups: list[Measured]
    downs: list[Measured]
    pairs: list[Pair]
    dense: Pair
    advised: Pair


def advise(
    config: Config,
    explicit: frozenset[str],
    link: Profile | None,
    link_text: str,
    own: Sequence[str] = (),
    *,
    confirms: bool = False,
) -> Advice:
    """Measure and choose; `link`: that of every client, None: their `--profiles`. `own`: codecs beside the usual ones.
    `confirms`: whether runs will be judged by validation data.

    Raises ConfigError, DataError and RoundError, each with one sentence.
    """
    up, down = candidates(config, explicit, own)
    with recorded(config, explicit) as recording:
        resolved = recording.config
        if confirms and not len(recording.rounds.worker.validation):
            raise ConfigError(
                "--confirm compares validation scores, and there are no validation data: --val-fraction 0.1"
            )
        bar = functools.partial(tqdm, unit="codec", leave=False, disable=config.quiet)
        ups = measure_uplink(recording, bar(up, desc="uplink"), config.error_feedback)
        downs = measure_downlink(recording, bar(down, desc="downlink"), config.error_feedback)
        assert resolved.clients_per_round is not None
        here = Round(links_of(link, resolved), resolved.clients_per_round, recording.train_s, config.error_feedback)
        pairs = here.pairs(ups, downs)
        return Advice(
            config=resolved,
            link=link_text,
            named=frozenset(own) | {getattr(config, way) for way in WAYS if way in explicit},
            coordinates=recording.layout.total,
            round=here,
            messages=(recording.uplink_rounds, recording.downlink_rounds),
            ups=ups,
            downs=downs,
            pairs=pairs,
            dense=here.pair(ups[0], downs[0]),
            advised=recommend(pairs),
        )
