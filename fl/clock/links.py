"""How long one transfer over a client's link takes, in virtual seconds."""

import math

from fl.common.seeds import numpy_generator

from .profiles import Profile

UP, DOWN = "up", "down"


def transfer_s(size: int, bandwidth: float, profile: Profile, draw: float) -> float:
    """Virtual seconds in which `size` bytes pass over the link of `profile` at `bandwidth` bytes/s.

        latency_s + size / (bandwidth * (1 - loss)) * draw

    `bandwidth` is the profile's up_bytes or down_bytes, or the smaller part of a shared server that the transfer gets; lost
    packets are sent again, at the same rate and without waiting; `draw` is what `jitter` gives, 1 for none. Where there are
    no bytes there is no transfer, and so not even a latency: 0 seconds. ValueError for what no link can do.
    """
    if size < 0 or bandwidth <= 0 or draw < 0:
        raise ValueError(f"a transfer of {size} bytes at {bandwidth} bytes/s with the factor {draw} is none")
    if size == 0:
        return 0.0
    return profile.latency_s + size / (bandwidth * (1 - profile.loss)) * draw


def jitter(profile: Profile, seed: int, client: int, number: int, direction: str) -> float:
    """The factor on the time that the bytes of a client's transfer `number` in `direction` (UP or DOWN) take.

        exp(sigma * z - sigma^2 / 2), z standard normal, sigma = profile.jitter

    It is log-normal with mean 1, so jitter makes no client slower on average, and 1 exactly where sigma is 0. It depends on
    (seed, direction, client, number) and the profile alone. ValueError for another direction.
    """
    if direction not in (UP, DOWN):
        raise ValueError(f"a transfer goes '{UP}' or '{DOWN}', not '{direction}'")
    sigma = profile.jitter
    if sigma == 0:
        return 1.0
    normal = float(numpy_generator(seed, f"jitter {direction}", client, number).standard_normal())
    # Twelve decimals, because the last bits of an exponential differ between C libraries and an order of events could turn.
    return round(math.exp(sigma * normal - sigma * sigma / 2), 12)
