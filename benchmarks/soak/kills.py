"""A daemon whose processes are killed at random moments: how soon it serves again, and what its disk has."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from benchmarks.soak.kept import Found, bundle_path, machine, say
from benchmarks.soak.swaps import is_ready, n_missing, spread
from edge_mer.bundle.read import open_bundle
from edge_mer.bundle.tar import pack
from edge_mer.config import read_config
from edge_mer.errors import LostError, MissingError
from edge_mer.link.client import LinkClient
from edge_mer.link.messages import LinkedError
from tests.helpers.daemon import (
    SOON_S,
    Daemon,
    Listener,
    Supervisor,
    ask_to_swap,
    running,
    variant,
    write_config,
)
from tests.helpers.daemon_disk import DaemonDisk
from tests.helpers.process import processes_about
from tests.helpers.senders import free_port
from tests.helpers.waiting import wait_until

SEED = 20

INFERENCE = {"starting": 10, "predicting": 10, "changing": 20, "acknowledging": 10}
GATEWAY = {"starting": 10, "streaming": 10, "bringing": 15, "acknowledging": 15}
"""What the process, or somebody with its help, is doing when it is killed, and how often."""

WITHIN_S = {
    "starting": 2.5,
    "predicting": 2.0,
    "streaming": 0.5,
    "changing": 14.0,
    "bringing": 0.6,
    "acknowledging": 0.1,
}
"""Killed at any moment of so many seconds since that began."""

PAUSE_S = 0.5
"""Before a process that ended is begun again; systemd's units have 5 s for inference, 2 s for the gateway."""

LEVELS = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Alarms below and above each of these, of both outputs: there is always one to acknowledge, or soon."""

PROBES_S = 0.02
"""How often somebody looks for an alarm."""


def kills() -> Found:
    """A hundred kills: fifty of each process, while the other one goes on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        port = free_port()
        config = write_config(folder, bundle_path(), more(folder), listen=f'"127.0.0.1:{port}"')
        env = {"TMPDIR": str(folder / "tmp")}
        with (
            running(config, "--only", "inference", env=env) as (inference, listener),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20.0) as client,
        ):
            gateway = Daemon(config, "--only", "gateway", env=env)
            ward = Ward(folder, inference, gateway, listener, client)
            try:
                return ward.run()
            finally:
                ward.release()
                if gateway.process.poll() is None:
                    gateway.kill()


def more(folder: Path) -> str:
    """What is configured: all that writes to the disk."""
    lines = [
        f'sinks = ["log:{folder}/predictions.jsonl?max_mb=1"]',
        "[relief]\non = false",
        f'[record]\nfile = "{folder}/session.mcap"',
    ]
    for output in ("valence", "arousal"):
        for number, level in enumerate(LEVELS):
            for side in ("above", "below"):
                rule = f'name = "{output}-{side}-{number}"\noutput = "affect.{output}"\n{side} = {level}'
                lines.append(f"[[alarms]]\n{rule}")
    return "\n".join(lines)


class Ward:
    """The daemon under its supervisors, and those who use it."""

    def __init__(
        self, folder: Path, inference: Daemon, gateway: Daemon, listener: Listener, client: httpx.Client
    ) -> None:
        self._folder, self._listener, self._client = folder, listener, client
        self._inference, self._gateway = inference, gateway
        self._keeps_inference = Supervisor(inference, PAUSE_S, self._inference_ended)
        self._keeps_gateway = Supervisor(gateway, PAUSE_S)
        self._disk = DaemonDisk(read_config(inference.config))
        self._link = folder / "run" / "link.sock"
        self._chance = random.Random(SEED)
        self._doing, self._killed_ns = "", 0
        self._user: threading.Thread | None = None
        self._asked = threading.Event()
        self._acknowledged: set[str] = set()
        self._expected: str | None = None
        self._phases: Counter[str] = Counter()
        self._tars = [self._tar_of(number) for number in range(3)]

    def release(self) -> None:
        """Let the processes end."""
        self._keeps_inference.release()
        self._keeps_gateway.release()

    def run(self) -> Found:
        """Kill, and see what comes of it."""
        began_s, loads = time.monotonic(), [os.getloadavg()[0]]
        wait_until(lambda: is_ready(self._client), "the gateway serves")
        inference_s = self._kill_all("inference", INFERENCE, self._keeps_inference, self._until_predicted)
        pid, n_before = self._inference.pid, len(self._listener.records)
        loads.append(os.getloadavg()[0])
        gateway_s = self._kill_all("gateway", GATEWAY, self._keeps_gateway, self._until_ready)
        self._listener.wait_for_more(2)
        loads.append(os.getloadavg()[0])
        meanwhile = self._listener.records[n_before:]
        is_same = self._inference.pid == pid and self._listener.served_by == pid
        self.release()
        self._gateway.stop()
        self._inference.stop()
        self._disk.look(None, frozenset(self._acknowledged))
        disk = self._disk
        return {
            "seed": SEED,
            "duration_s": round(time.monotonic() - began_s, 1),
            "pause_s": PAUSE_S,
            "n_rules": 4 * len(LEVELS),
            "inference": told(INFERENCE, self._keeps_inference, inference_s),
            "gateway": told(GATEWAY, self._keeps_gateway, gateway_s),
            "n_meanwhile": len(meanwhile),
            "n_lost_meanwhile": n_missing(meanwhile) if is_same else len(meanwhile),
            "phases": dict(self._phases.most_common()),
            "n_acknowledged": len(self._acknowledged),
            "faults": disk.faults,
            "n_audit": disk.n_audit,
            "n_audit_torn": disk.n_audit_torn,
            "n_lines": disk.n_lines,
            "n_lines_torn": disk.n_lines_torn,
            "n_recorded": disk.n_recorded,
            "n_begun": disk.n_begun,
            "recordings_lost_s": spread(disk.lost_s),
            "stray": disk.stray() + [str(one) for one in (self._folder / "tmp").iterdir()],
            "load": spread(loads),
            "machine": machine(),
        }

    def _kill_all(
        self, name: str, doings: Mapping[str, int], keeps: Supervisor, until_serving: Callable[[], None]
    ) -> list[float]:
        """Kill a process again and again; returns how long it took to serve whenever it was let."""
        until_serving()
        planned = [doing for doing, n in doings.items() for _ in range(n)]
        self._chance.shuffle(planned)
        took_s: list[float] = []
        for number, doing in enumerate(planned, 1):
            self._doing, after_s = doing, self._chance.uniform(0, WITHIN_S[doing])
            with self._using(name, doing):
                if doing == "acknowledging":
                    self._asked.wait(SOON_S)
                time.sleep(after_s)
                self._killed_ns = time.time_ns()
                keeps.kill()
            if number == len(planned) or planned[number] != "starting":
                until_serving()
                took_s.append(round(time.monotonic() - keeps.began_s[-1], 2))
            say("kills", f"{name} {number}, {doing}, {took_s[-1:]}, {len(self._disk.faults)} faults")
        return took_s

    # -- what goes on when it is killed ------------------------------------------------------------

    @contextlib.contextmanager
    def _using(self, name: str, doing: str) -> Iterator[None]:
        """Somebody does something meanwhile, and is not surprised when nobody answers any more."""
        work = {
            ("inference", "changing"): self._change,
            ("inference", "acknowledging"): self._acknowledge,
            ("gateway", "streaming"): self._stream,
            ("gateway", "bringing"): self._bring,
            ("gateway", "acknowledging"): self._acknowledge_over_http,
        }.get((name, doing))
        self._asked.clear()
        self._user = None if work is None else threading.Thread(target=work, daemon=True)
        if self._user is not None:
            self._user.start()
        yield
        if self._user is not None:
            self._user.join()

    def _change(self) -> None:
        with contextlib.suppress(LostError, MissingError):
            ask_to_swap(self._link, self._another())

    def _acknowledge(self) -> None:
        with contextlib.suppress(LostError, MissingError), LinkClient(self._link) as link:
            while True:
                for alarm_id in self._standing():
                    with contextlib.suppress(LinkedError):  # it is over meanwhile
                        self._asked.set()
                        link.ask("acknowledge", "soak", id=alarm_id)
                        self._acknowledged.add(alarm_id)
                link.receive(PROBES_S)

    def _stream(self) -> None:
        with (
            contextlib.suppress(httpx.TransportError),
            self._client.stream("GET", "/v1/predictions") as lines,
        ):
            for _ in lines.iter_lines():
                pass

    def _bring(self) -> None:
        with contextlib.suppress(httpx.TransportError):
            headers = {"content-type": "application/x-tar"}
            self._client.post("/v1/bundle", content=self._another().read_bytes(), headers=headers)

    def _acknowledge_over_http(self) -> None:
        with contextlib.suppress(httpx.TransportError):
            while True:
                for alarm_id in self._standing():
                    self._asked.set()
                    if self._client.post(f"/v1/alarms/{alarm_id}/acknowledge").is_success:
                        self._acknowledged.add(alarm_id)
                time.sleep(PROBES_S)
                self._client.get("/healthz")

    def _standing(self) -> list[str]:
        """Alarms that nobody acknowledged yet."""
        return [alarm["id"] for alarm in self._listener.alarms if alarm["acknowledged_by"] is None]

    # -- what comes of it --------------------------------------------------------------------------

    def _inference_ended(self) -> None:
        """Before it is begun again."""
        if self._user is not None:
            self._user.join()  # what it was told by now counts
        if self._doing == "changing":
            self._phases[self._listener.swap["state"]] += 1
        self._disk.look(self._killed_ns, frozenset(self._acknowledged))
        bundle = self._disk.current()
        self._expected = None if bundle is None else bundle.bundle_id
        wait_until(lambda: self._children() == set(), "whoever proves a bundle ends with the daemon")

    def _children(self) -> set[int]:
        return processes_about(str(self._folder)) - {self._gateway.pid, os.getpid()}

    def _until_predicted(self) -> None:
        pid = self._inference.pid
        self._listener.wait_for(lambda: self._listener.served_by == pid)
        served = self._listener.records[-1]["bundle_id"]
        if self._expected not in (None, served):
            self._disk.faults.append(f"{served} serves instead of {self._expected}")

    def _until_ready(self) -> None:
        wait_until(lambda: is_ready(self._client), "the gateway serves")

    def _another(self) -> Path:
        """A bundle that does not serve now."""
        serves = self._listener.records[-1]["bundle_id"]
        return next(tar for tar, bundle_id in self._tars if bundle_id != serves)

    def _tar_of(self, number: int) -> tuple[Path, str]:
        made = variant(bundle_path(), self._folder / f"variant-{number}")
        tar = made.with_suffix(".tar")
        with tar.open("wb") as file:
            pack(open_bundle(made), file)
        return tar, open_bundle(made).bundle_id


def told(doings: Mapping[str, int], keeps: Supervisor, took_s: list[float]) -> Found:
    """How a process came through."""
    return {
        "n_kills": sum(doings.values()),
        "n_doing": dict(doings),
        "n_ended_otherwise": sum(code != -9 for code in keeps.codes),
        "took_s": spread(took_s),
        "all_took_s": took_s,
    }
