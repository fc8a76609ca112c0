"""What one client may use up, so that there is enough for everybody else."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from edge_mer.clock import NS_PER_S, Clock

KIB = 1 << 10
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds of the gateway.

    Attributes:
        n_connections: Of everybody together.
        n_connections_per_peer: Of one address; of one user at a unix socket.
        head_s: In which a request's head must have come, and the rest of a body that nobody reads.
        body_s: In which the next piece of a body must have come.
        stuck_s: So long nothing could be sent to a client who has something to get; then it is cut off.
        head_bytes: Of a request's line and headers.
        json_bytes: Of a body in JSON.
        bundle_bytes: Of a bundle.
        unsent_bytes: That wait in this process for one client.
        kernel_bytes: That the kernel holds for one client.
        requests_per_s: Of one peer, over a longer time.
        n_requests_at_once: Of one peer, after a pause.
        logins_per_min: Failed ones of one peer; then its logins and tokens are refused unread.
    """

    n_connections: int = 256
    n_connections_per_peer: int = 64
    head_s: float = 10.0
    body_s: float = 15.0
    stuck_s: float = 10.0
    head_bytes: int = 16 * KIB
    json_bytes: int = 64 * KIB
    bundle_bytes: int = 4 * GIB
    unsent_bytes: int = 1024 * KIB
    kernel_bytes: int = 64 * KIB
    requests_per_s: float = 20.0
    n_requests_at_once: int = 100
    logins_per_min: int = 10


class Buckets:
    """Lets each key do something so many times per second, and a number at once after a pause.

    Args:
        per_s: Over a longer time.
        at_once: After a pause.
        clock: What time it is.
        max_keys: The one that was longest silent is forgotten when there are more.
    """

    def __init__(self, per_s: float, at_once: float, clock: Clock, max_keys: int = 4096) -> None:
        self._per_s, self._at_once, self._clock, self._max_keys = per_s, at_once, clock, max_keys
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def left(self, key: str) -> float:
        """How many times more `key` may now."""
        now_ns = self._clock.now_ns()
        left, since_ns = self._left.get(key, (self._at_once, now_ns))
        return min(self._at_once, left + (now_ns - since_ns) / NS_PER_S * self._per_s)

    def take(self, key: str) -> bool:
        """Count one; False when there was none left."""
        left = self.left(key)
        may = left >= 1.0
        self._left[key] = (left - may, self._clock.now_ns())
        self._left.move_to_end(key)
        if len(self._left) > self._max_keys:
            self._left.popitem(last=False)
        return may


def peer_of(host: str | None) -> str:
    """Whom a connection counts for: an IPv4 address, or the /64 network of an IPv6 one, a household's.

    Args:
        host: The address; None or "" at a unix socket.
    """
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return "unix"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
