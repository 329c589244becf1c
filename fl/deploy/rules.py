"""Options that cannot work across sites: refused before anything is written or sent."""

from fl.common.config import Config
from fl.data import is_by_site, is_own
from fl.run.rules import Rule, check_rules

# fmt: off
_RULES: tuple[Rule, ...] = (
    ("--dataset {dataset} does not go with --partition {partition}:",
     lambda o: is_by_site(o.config) and not is_own(o.config),
     "sites have files of their own: use csv:PATH, imagefolder:PATH, text:PATH or a function of yours"),
    ("--mode {mode} does not work across sites:", lambda o: o.mode.name == "step",
     "there are no rounds in it; use sync, buffered:K or async:ALPHA"),
    ("--lost {lost:g} and --timeout {timeout:g} do not work across sites:", lambda o: o.lost or o.timeout,
     "they are about simulated clients; use 0"),
    ("{early} needs --min-clients across sites:", lambda o: o.ends_early and o.min_clients is None,
     "say how many updates a round must have at least"),
    ("--late {late} does not work across sites:", lambda o: o.ends_early and not o.mode.drops_late,
     "an update counts in its own round; use drop"),
    ("--exchange {exchange} does not work across sites:", lambda o: not o.mode.sees_each_update, "use server"),
    ("--ranks-per-client {ranks_per_client} does not work across sites:", lambda o: o.ranks_per_client > 1,
     "each client trains in one process; use 1"),
    ("--server-shards {server_shards} does not work across sites:", lambda o: o.server_shards > 1,
     "the server is one process; use 1"),
    ("--prune {prune} does not work across sites:", lambda o: o.prune != "none",
     "they would have to share masks; use none, and prune a finished model with leanfed export"),
    ("--uplink-shares {uplink_shares} does not go with {rounds} across sites:",
     lambda o: o.uplink_shares.startswith("online") and not o.mode.takes_time,
     "shares are learnt from virtual times, which do not pass there; use equal_time:FLOOR"),
    ("--client-eval {client_eval:g} does not go with --partition {partition}:",
     lambda o: o.client_eval > 0 and is_by_site(o.config),
     "the model is judged on the server, which has no samples of the sites; use 0"),
)
# fmt: on


def check_deployed(config: Config, explicit: frozenset[str] = frozenset()) -> None:
    """ConfigError for the first option that cannot work across sites; `config` is one that `check_options` has passed."""
    check_rules(config, explicit, _RULES)
