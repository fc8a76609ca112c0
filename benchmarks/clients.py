"""What 200 clients that hang cost the predictions of a real daemon: nothing that can be told from chance.

.venv/bin/python -m benchmarks.clients

Runs of the daemon with and without them take turns, each with a simulated person at real pace. Writes
benchmarks/measured/clients.json. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from edge_mer.engine.cache import processor
from tests.helpers.bundle import ensure_bundle
from tests.helpers.daemon import running, write_config
from tests.helpers.gateway import until
from tests.helpers.senders import free_port
from tests.helpers.slow_clients import slow_clients

MEASURED = Path(__file__).with_name("measured") / "clients.json"
N_CLIENTS = 200
N_RUNS = 5
N_PREDICTIONS = 60
"""Of each run, after those that warm up."""

_N_WARM_UP = 20
_STAGES = ("infer", "end_to_end")


def main() -> int:
    """The exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bundle", type=Path, help="a bundle of your own")
    bundle = arguments.parse_args().bundle or ensure_bundle()
    runs = []
    for number in range(N_RUNS):
        for n_clients in (0, N_CLIENTS) if number % 2 == 0 else (N_CLIENTS, 0):
            runs.append(run(bundle, n_clients))
            print(json.dumps(runs[-1]), flush=True)
    medians = {n: _medians([one for one in runs if one["n_clients"] == n]) for n in (0, N_CLIENTS)}
    found = {"processor": processor(), "n_cores": os.cpu_count(), "median_ms": medians, "runs": runs}
    MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for stage in _STAGES:
        print(
            f"{stage}: {medians[0][stage]:.2f} ms alone, {medians[N_CLIENTS][stage]:.2f} ms with {N_CLIENTS}"
        )
    return 0


def run(bundle: Path, n_clients: int) -> dict[str, Any]:
    """Medians of one run of the daemon, in milliseconds."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), bundle, listen=f'"127.0.0.1:{port}"')
        with running(config) as (daemon, listener):
            until(lambda: _is_ready(port))
            with slow_clients(port, n_clients):
                listener.wait_for_more(_N_WARM_UP)
                begin = len(listener.records)
                listener.wait_for_more(N_PREDICTIONS)
                health = httpx.get(f"http://127.0.0.1:{port}/v1/health", trust_env=False).json()
            records = listener.records[begin : begin + N_PREDICTIONS]
            daemon.stop()
    told = {stage: statistics.median(one["latency_ms"][stage] for one in records) for stage in _STAGES}
    n_lost = sum(record["status"] == "withheld" for record in records)
    return {
        "n_clients": n_clients,
        "n_connections": health["gateway"]["n_connections"],
        "n_dropped_steps": health["n_dropped_steps"],
        "n_withheld": n_lost,
        **{stage: round(value, 3) for stage, value in told.items()},
    }


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {stage: round(statistics.median(one[stage] for one in runs), 3) for stage in _STAGES}


if __name__ == "__main__":
    sys.exit(main())
