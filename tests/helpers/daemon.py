"""A real daemon in processes of its own, and somebody who listens to it all the time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_mer.bundle.manifest import FileEntry, Manifest
from edge_mer.bundle.read import open_bundle
from edge_mer.bundle.tar import pack
from edge_mer.bundle.write import write_bundle
from edge_mer.errors import EdgeMerError, LostError, MissingError
from edge_mer.link.client import LinkClient

SOON_S = 60.0
EDGE_MER = (sys.executable, "-m", "edge_mer.cli.main")


def write_config(folder: Path, bundle: Path, more: str = "", *, listen: str = "") -> Path:
    """A configuration with a simulated person, whose state and socket are in `folder`."""
    path = folder / "edge-mer.toml"
    path.write_text(
        f'bundle = "{bundle}"\nsources = ["sim-live:fps=15"]\nstate_dir = "state"\nrun_dir = "run"\n{more}'
        f"\n[http]\nlisten = [{listen}]\n",
        encoding="utf-8",
    )
    (folder / "run").mkdir(exist_ok=True)
    return path


class Listener:
    """Connects again and again, and keeps what it hears.

    Attributes:
        records: Predictions.
        healths: What was told of health.
        hellos: What was told of models.
        alarms: Those that stand.
        served_by: Process that the last prediction came from.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.records: list[dict[str, Any]] = []
        self.healths: list[dict[str, Any]] = []
        self.hellos: list[dict[str, Any]] = []
        self.alarms: list[dict[str, Any]] = []
        self.served_by: int | None = None
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wait_for(self, what: Callable[[], Any], timeout_s: float = SOON_S) -> None:
        """Until something holds that is asked after each message."""
        with self._changed:
            assert self._changed.wait_for(what, timeout_s), self.healths[-1:]

    def wait_for_more(self, n: int, timeout_s: float = SOON_S) -> None:
        """Until so many more predictions came."""
        enough = len(self.records) + n
        self.wait_for(lambda: len(self.records) >= enough, timeout_s)

    @property
    def swap(self) -> dict[str, Any]:
        """How the last change of bundle goes."""
        found: dict[str, Any] = self.healths[-1]["swap"] if self.healths else {"state": "none"}
        return found

    def close(self) -> None:
        """Listen no more."""
        self._is_over = True
        self._thread.join()

    def _work(self) -> None:
        while not self._is_over:
            try:
                with LinkClient(self._socket) as link:
                    self._hear(link)
            except (MissingError, LostError):
                time.sleep(0.02)

    def _hear(self, link: LinkClient) -> None:
        while not self._is_over:
            message = link.receive(0.1)
            if message is None:
                continue
            with self._changed:
                if message["kind"] == "prediction":
                    self.records.append(message["record"])
                    self.served_by = self.hellos[-1]["pid"]
                elif message["kind"] == "health":
                    self.healths.append(message["health"])
                elif message["kind"] == "hello":
                    self.hellos.append(message)
                elif message["kind"] == "alarms":
                    self.alarms = message["alarms"]
                self._changed.notify_all()


class Daemon:
    """A process of the daemon.

    Args:
        config: Its configuration's file.
        arguments: More of the command line, such as "--only", "inference".
        env: More of its environment.
    """

    def __init__(self, config: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.config = config
        self._command = [*EDGE_MER, "daemon", "--config", str(config), *arguments]
        self._env = os.environ | (env or {})
        self.log = config.parent / f"log{'-'.join(arguments)}.txt"
        self.start()

    def start(self) -> None:
        """Begin it, or begin it again."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log, env=self._env)

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self) -> float:
        """End it cleanly; returns how many seconds that took."""
        began_s = time.monotonic()
        self.process.terminate()
        assert self.process.wait(SOON_S) == 0, self.log.read_text()
        return time.monotonic() - began_s

    def kill(self) -> None:
        """As the kernel does that is out of memory."""
        self.process.kill()
        self.process.wait(SOON_S)

    def has(self, text: str) -> bool:
        """Whether it has said so."""
        return text in self.log.read_text(encoding="utf-8")


class Supervisor:
    """Begins a process again whenever it ends, as `Restart=always` has systemd do.

    Args:
        daemon: The process.
        pause_s: How long it waits before.
        on_end: Called in between.

    Attributes:
        codes: Exit codes; minus the signal where one ended it.
        began_s: Monotonic times at which it was begun, the first time too.
    """

    def __init__(self, daemon: Daemon, pause_s: float, on_end: Callable[[], None] = lambda: None) -> None:
        self._daemon, self._pause_s, self._on_end = daemon, pause_s, on_end
        self.codes: list[int] = []
        self.began_s = [time.monotonic()]
        self._changed = threading.Condition()
        self._stop_asked = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Kill the process as it is; return once it was begun again."""
        n = len(self.began_s)
        self._daemon.signal(signal.SIGKILL)
        with self._changed:
            assert self._changed.wait_for(lambda: self._failure or len(self.began_s) > n, SOON_S)
        if self._failure is not None:
            raise self._failure

    def release(self) -> None:
        """Look after it no more."""
        self._stop_asked.set()

    def _work(self) -> None:
        while True:
            code = self._daemon.process.wait()
            if self._stop_asked.is_set():
                return
            try:
                self.codes.append(code)
                self._on_end()
                self._stop_asked.wait(self._pause_s)
                self._daemon.start()
            except BaseException as failure:  # whoever kills it is told
                self._failure = failure
            with self._changed:
                self.began_s.append(time.monotonic())
                self._changed.notify_all()
            if self._failure is not None:
                return


@contextlib.contextmanager
def running(
    config: Path, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[tuple[Daemon, Listener]]:
    """A daemon, and who listens to it; killed in the end if it still runs."""
    daemon, listener = Daemon(config, *arguments, env=env), Listener(config.parent / "run" / "link.sock")
    try:
        yield daemon, listener
    finally:
        listener.close()
        if daemon.process.poll() is None:
            daemon.kill()


def verb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A verb of the command line, as a user calls it."""
    return subprocess.run(
        [*EDGE_MER, *map(str, arguments)], capture_output=True, text=True, timeout=SOON_S, check=False
    )


def variant(bundle: Path, out: Path, files: dict[str, bytes] | None = None, name: str = "") -> Path:
    """The same bundle with another id, and other content of some files."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    content = {path: opened.read(path) for path in manifest.files} | (files or {})

    def made(entries: dict[str, FileEntry]) -> Manifest:
        made_by = (*manifest.lineage.made_by, name or out.name)
        lineage = manifest.lineage.model_copy(update={"made_by": made_by})
        return manifest.model_copy(update={"files": entries, "lineage": lineage})

    write_bundle(out, content, made)
    return out


def ask_to_swap(socket: Path, bundle: Path) -> dict[str, Any] | EdgeMerError:
    """Have a daemon change to a bundle's folder or tar; returns what it answers."""
    path = bundle
    if bundle.is_dir():
        path = bundle.with_suffix(".tar")
        with path.open("wb") as file:
            pack(open_bundle(bundle), file)
    with LinkClient(socket) as link, path.open("rb") as file:
        try:
            return link.ask("swap", "tests", file.fileno())
        except EdgeMerError as error:
            return error


def until_over(listener: Listener, bundle_id: str) -> str:
    """Wait until a change of bundle has come to its end; returns what came of it."""

    def is_over() -> bool:
        swap = listener.swap
        return swap["bundle_id"] == bundle_id and swap["state"] in ("kept", "refused", "rolled_back")

    listener.wait_for(is_over)
    state: str = listener.swap["state"]
    return state


def are_whole(records: Sequence[dict[str, Any]], hop_s: float) -> bool:
    """Whether no hop is lost, and none told twice."""
    ends = [round(record["t_end_ns"] / 1e9 / hop_s) for record in records]
    return ends == [*range(ends[0], ends[0] + len(ends))]
