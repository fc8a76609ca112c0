"""Everything that the gateway's own description allows is asked of a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs pip install 'edge-mer[daemon]'")
pytest.importorskip("schemathesis", reason="needs pip install schemathesis")

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi import checks

from edge_mer.clock import MonotonicClock
from edge_mer.gateway.app import Surroundings, make_routes
from edge_mer.gateway.auth import make_token
from edge_mer.gateway.bridge import Bridge
from edge_mer.gateway.feed import Feed
from edge_mer.gateway.limits import Limits
from tests.helpers.gateway import GENEROUS, Gateway, running, until

pytestmark = pytest.mark.live

TOKEN, SHA256 = make_token()
HTTP = f'[[http.tokens]]\nname = "t"\nsha256 = "{SHA256}"\nmay = ["read", "acknowledge", "swap"]'
AUTH = {"Authorization": f"Bearer {TOKEN}"}


def described() -> dict[str, object]:
    """What `/openapi.json` says; nothing of it depends on the configuration."""
    feed = Feed(MonotonicClock())
    bridge = Bridge(Path("none"), feed)
    clock, here = MonotonicClock(), Path()
    around = Surroundings(feed, bridge, (), (), here, clock, Limits(), own_health=dict)
    return make_routes(around).openapi()


schemathesis.serializer.alias("application/x-tar", "application/octet-stream")

# any bytes are a body, but few are a bundle; a GET with a body is refused before its path is looked at
NOT_ASKED_FOR = [checks.positive_data_acceptance, checks.unsupported_method]

# a stream never ends; tests/e2e/test_gateway.py reads it
schema = schemathesis.openapi.from_dict(described()).exclude(path="/v1/predictions")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    limits = {**GENEROUS, "logins_per_min": 1_000_000}
    folder = tmp_path_factory.mktemp("schema")
    with (
        running(folder, http=HTTP, limits=limits) as (one, inference),
        one.client(headers=AUTH) as client,
        inference.predicting(),
    ):
        until(lambda: client.get("/v1/predictions/latest").json().get("status") == "ok")
        assert client.get("/openapi.json").json() == described()
        yield one


@schema.parametrize()
@settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nothing_that_is_described_breaks_it(case: object, gateway: Gateway) -> None:
    case.call_and_validate(  # type: ignore[attr-defined]
        base_url=gateway.url, headers=AUTH, timeout=5.0, excluded_checks=NOT_ASKED_FOR
    )
