"""Both processes of the daemon: what is inferred is heard over HTTP, and a bundle that is brought serves."""

from __future__ import annotations

import io
import random
import time
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="needs pip install httpx")

import httpx

from edge_mer.bundle.read import open_bundle
from edge_mer.bundle.tar import pack
from edge_mer.gateway.shapes import HealthShape, ModelShape, PredictionShape
from tests.helpers.daemon import Daemon, Supervisor, are_whole, running, variant, write_config
from tests.helpers.gateway import until
from tests.helpers.senders import free_port

pytestmark = [pytest.mark.live]

N_KILLS = 10


def is_told(client: httpx.Client, path: str, key: str, value: object) -> bool:
    try:
        return bool(client.get(path).json().get(key) == value)
    except httpx.TransportError:  # it is not there yet
        return False


def test_it_is_heard_and_changed_over_http(shared_bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, shared_bundle, listen=f'"127.0.0.1:{port}"')
    other = variant(shared_bundle, tmp_path / "other")
    tar = io.BytesIO()
    pack(open_bundle(other), tar)
    with (
        running(config) as (daemon, listener),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20.0) as client,
    ):
        until(lambda: is_told(client, "/readyz", "state", "serving"))
        ModelShape.model_validate(client.get("/v1/model").json())
        HealthShape.model_validate(client.get("/v1/health").json())
        latest = client.get("/v1/predictions/latest").json()
        PredictionShape.model_validate(latest)
        until(lambda: latest in listener.records)
        assert "edge_mer_predictions_total" in client.get("/metrics").text
        headers = {"content-type": "application/x-tar"}
        assert client.post("/v1/bundle", content=b"no tar", headers=headers).status_code in (202, 422)
        until(lambda: client.get("/v1/bundle").json()["swap"]["state"] in ("none", "refused"))
        brought = client.post("/v1/bundle", content=tar.getvalue(), headers=headers)
        assert brought.status_code == 202, brought.text
        until(lambda: client.get("/v1/bundle").json()["swap"]["state"] == "kept")
        until(lambda: is_told(client, "/v1/predictions/latest", "bundle_id", open_bundle(other).bundle_id))
        assert client.get("/v1/model").json()["bundle_id"] == open_bundle(other).bundle_id
        assert client.get("/v1/bundle").json()["can_go_back"]
        assert are_whole(listener.records, open_bundle(shared_bundle).hop_s)
        assert daemon.stop() < 2
    assert not daemon.has("Traceback")


def test_a_gateway_that_is_killed_at_any_moment_serves_again(shared_bundle: Path, tmp_path: Path) -> None:
    """And inference does not even notice."""
    port = free_port()
    config = write_config(tmp_path, shared_bundle, listen=f'"127.0.0.1:{port}"')
    chance = random.Random(3)
    with (
        running(config, "--only", "inference") as (daemon, listener),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20.0) as client,
    ):
        gateway = Daemon(config, "--only", "gateway")
        supervisor = Supervisor(gateway, 0.1)
        try:
            for _ in range(N_KILLS):
                until(lambda: is_told(client, "/readyz", "state", "serving"))
                with client.stream("GET", "/v1/predictions") as stream:
                    next(stream.iter_lines())
                    time.sleep(chance.uniform(0, 0.5))
                    supervisor.kill()
            until(lambda: is_told(client, "/readyz", "state", "serving"))
            listener.wait_for_more(1)
            assert are_whole(listener.records, open_bundle(shared_bundle).hop_s)
            supervisor.release()
            assert gateway.stop() < 2
        finally:
            supervisor.release()
            if gateway.process.poll() is None:
                gateway.kill()
        assert daemon.stop() < 2
