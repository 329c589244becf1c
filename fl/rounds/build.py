"""From the options to how updates travel."""

from compression import make_codec
from fl.clock.adaptive import uplink_shares
from fl.comm.codecs import Uplink
from fl.pruning.spec import parse_pruning
from fl.server.optimizers import make_server_optimizer
from fl.server.server import Server
from fl.training.worker import Federation

from .buffered_exchange import BufferedExchange
from .exchange import Exchange
from .hook import HookExchange
from .modes import is_buffered
from .server_exchange import ServerExchange


def make_exchange(federation: Federation) -> Exchange:
    """How updates travel, with the server on rank 0."""
    config, feedback = federation.config, federation.config.error_feedback
    server = None
    if federation.ranks.is_server:
        server = Server(
            federation.state,
            lambda params: make_server_optimizer(config, params),
            make_codec(config.downlink),
            error_feedback=feedback != "none",
        )
    if config.exchange == "hook":
        return HookExchange(
            federation.ranks,
            federation.state,
            server,
            federation.engine.model,
            uplink=Uplink(config.uplink, config.uplink_warmup),
            downlink=config.downlink,
            error_feedback=feedback,
            seed=config.seed,
            hook=config.hook,
        )
    kind = BufferedExchange if is_buffered(config) else ServerExchange
    exchange = kind(
        federation.ranks,
        federation.state,
        server,
        Uplink(config.uplink, config.uplink_warmup),
        downlink=config.downlink,
        error_feedback=feedback,
        seed=config.seed,
        course=federation.course,
        part_mean="holders" if config.prune == "none" else parse_pruning(config.prune).mean,
        aggregate=config.aggregate,
    )
    exchange.count_layers = config.prune != "none"
    exchange.shares = uplink_shares(config)
    return exchange
