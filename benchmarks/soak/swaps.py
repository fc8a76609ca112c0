"""A daemon that changes its bundle a hundred times while it predicts: what that loses, and what it leaves."""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.soak.kept import Found, bundle_path, machine, say
from edge_mer.bundle.read import open_bundle
from edge_mer.bundle.tar import pack
from edge_mer.config import read_config
from tests.helpers.daemon import Daemon, Listener, are_whole, running, until_over, variant, write_config
from tests.helpers.daemon_disk import DaemonDisk
from tests.helpers.process import files_held, n_open_files, n_threads, rss_bytes
from tests.helpers.senders import free_port
from tests.helpers.waiting import wait_until

N_SWAPS = 100
NEW_EVERY = 10
"""Each of so many changes brings a bundle that never was here; the others go back to the one before."""

MOST_S = 15 * 60
"""A busy machine may refuse some changes; after so long no more are asked for."""

QUIET_S = 40.0
"""So long it predicts without any change before the first one."""

MAX_MB_PER_100 = 5.0
"""A daemon may not grow faster, with a hundred changes."""

Samples = dict[str, list[float]]


class Heard:
    """Whoever reads predictions over HTTP all the while."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self.records: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once the gateway has ended."""
        self._thread.join()

    def _work(self) -> None:
        with (
            httpx.Client(base_url=self._base_url, trust_env=False, timeout=20.0) as client,
            client.stream("GET", "/v1/predictions") as stream,
        ):
            kind = ""
            for line in stream.iter_lines():
                name, _, text = line.partition(": ")
                kind = text if name == "event" else kind
                if name == "data" and kind == "prediction":
                    self.records.append(json.loads(text)["record"])


def swaps() -> Found:
    """A hundred changes of bundle, one after the other, in a daemon of two processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        port = free_port()
        more = f'sinks = ["log:{folder}/predictions.jsonl"]\n[relief]\non = false'
        config = write_config(folder, bundle_path(), more, listen=f'"127.0.0.1:{port}"')
        env, base_url = {"TMPDIR": str(folder / "tmp")}, f"http://127.0.0.1:{port}"
        with (
            running(config, "--only", "inference", env=env) as (inference, listener),
            httpx.Client(base_url=base_url, trust_env=False, timeout=20.0) as client,
        ):
            gateway = Daemon(config, "--only", "gateway", env=env)
            try:
                wait_until(lambda: is_ready(client), "the gateway serves")
                world = World(folder, inference, gateway, listener, client)
                heard = Heard(base_url)
                found = world.run()
                gateway.stop()
                heard.wait()
            finally:
                if gateway.process.poll() is None:
                    gateway.kill()
            inference.stop()
            return found | world.lost(heard.records) | {"stray": world.stray()}


def is_ready(client: httpx.Client) -> bool:
    """Whether predictions come, by what the gateway says."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:  # it is not there yet
        return False


class World:
    """The daemon, and who has it change."""

    def __init__(
        self, folder: Path, inference: Daemon, gateway: Daemon, listener: Listener, client: httpx.Client
    ) -> None:
        self._folder, self._listener, self._client = folder, listener, client
        self._processes = {"inference": inference, "gateway": gateway}
        self._disk = DaemonDisk(read_config(inference.config))
        self._began = listener.hellos[0]["model"]
        self._samples: dict[str, Samples] = {
            name: {"rss_mb": [], "n_threads": [], "n_fds": []} for name in self._processes
        }
        self._held: list[str] = []
        self._left: list[str] = []
        self._took_s: dict[str, list[float]] = {"new": [], "back": []}
        self._n_new = 0

    def run(self) -> Found:
        """Change, and count."""
        hop_s = self._began["hop_s"]
        self._listener.wait_for_more(round(QUIET_S / hop_s))
        n_quiet, came_to, began_s = len(self._listener.records), Counter[str](), time.monotonic()
        loads = [os.getloadavg()[0]]
        self._sample()
        while came_to["kept"] < N_SWAPS and time.monotonic() - began_s < MOST_S:
            outcome = self._change(is_new=came_to["kept"] % NEW_EVERY == 0)
            came_to[outcome] += 1
            self._sample()
            loads.append(os.getloadavg()[0])
            say(
                "swaps", f"{came_to['kept']}, {self._samples['inference']['rss_mb'][-1]} MB, {loads[-1]} load"
            )
        duration_s = time.monotonic() - began_s
        took_ms = [record["latency_ms"]["end_to_end"] for record in self._listener.records]
        return {
            "hop_s": hop_s,
            "duration_s": round(duration_s, 1),
            "came_to": dict(came_to),
            "n_new": self._n_new,
            "took_s": {name: spread(took) for name, took in self._took_s.items()},
            "quiet_ms": spread(took_ms[10:n_quiet]),
            "changing_ms": spread(took_ms[n_quiet:]),
            "n_quiet": n_quiet,
            "held": self._held,
            "left": self._left,
            "load": spread(loads),
            "machine": machine(),
            "samples": self._samples,
            "growth": {name: growth(one["rss_mb"]) for name, one in self._samples.items()},
        }

    def lost(self, heard: Sequence[dict[str, Any]]) -> Found:
        """Hops that did not come, at the link and over HTTP, and what the others were."""
        told, hop_s = self._listener.records, self._began["hop_s"]
        return {
            "n_predictions": len(told),
            "n_by_status": dict(Counter(record["status"] for record in told)),
            "n_by_reason": dict(Counter(reason for record in told for reason in record["reasons"])),
            "is_whole": are_whole(told, hop_s) and n_missing(told) == 0,
            "n_lost": n_missing(told),
            "n_http": len(heard),
            "n_lost_http": n_missing([one for one in heard if one["reasons"] != ["inference_lost"]]),
        }

    def stray(self) -> list[str]:
        """Files that are left once it has ended."""
        return self._disk.stray() + [str(one) for one in (self._folder / "tmp").iterdir()]

    def _change(self, *, is_new: bool) -> str:
        """Have it change; returns what came of it."""
        if is_new:
            self._n_new += 1
            newcomer = variant(bundle_path(), self._folder / "new", name=f"variant {self._n_new}")
            tar, bundle_id = io.BytesIO(), open_bundle(newcomer).bundle_id
            pack(open_bundle(newcomer), tar)
            _remove(newcomer)
            began_s = time.monotonic()
            headers = {"content-type": "application/x-tar"}
            answer = self._client.post("/v1/bundle", content=tar.getvalue(), headers=headers)
        else:
            record = json.loads((self._folder / "state/bundles/current.json").read_text(encoding="utf-8"))
            place = self._folder / "state/bundles" / record["previous"]
            bundle_id = open_bundle(place if record["previous"] else bundle_path()).bundle_id
            began_s = time.monotonic()
            answer = self._client.post("/v1/bundle/rollback")
        answer.raise_for_status()
        outcome = until_over(self._listener, bundle_id)
        self._took_s["new" if is_new else "back"].append(round(time.monotonic() - began_s, 2))
        return outcome

    def _sample(self) -> None:
        """What both processes hold once a change is over."""
        self._listener.wait_for_more(1)
        for name, process in self._processes.items():
            samples = self._samples[name]
            samples["rss_mb"].append(round(rss_bytes(process.pid) / 1e6, 3))
            samples["n_threads"].append(n_threads(process.pid))
            samples["n_fds"].append(n_open_files(process.pid))
            held = files_held(process.pid, self._folder)
            self._held += [one for one in held if "/bundles/" in one or one.endswith(" (deleted)")]
        self._left += self._disk.stray()


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def n_missing(records: Sequence[dict[str, Any]]) -> int:
    """Hops that are not there, or there twice."""
    indices = [record["window_index"] for record in records]
    whole = range(indices[0], indices[-1] + 1)
    return len(set(whole) - set(indices)) + len(indices) - len(set(indices))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and most."""
    return {
        "n": len(values),
        "p50": round(statistics.median(values), 2),
        "p95": round(float(np.percentile(values, 95)), 2),
        "max": round(max(values), 2),
    }


def growth(rss_mb: Sequence[float]) -> dict[str, float]:
    """Slope of the line that fits the last half best, in MB per 100 changes, with its standard error."""
    late = np.asarray(rss_mb[len(rss_mb) // 2 :])
    n = np.arange(len(late)) / 100
    (slope, _), covariance = np.polyfit(n, late, 1, cov=True)
    return {"mb_per_100": round(float(slope), 3), "error": round(float(np.sqrt(covariance[0, 0])), 3)}
