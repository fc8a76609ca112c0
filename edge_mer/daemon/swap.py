"""A change of bundle while predictions go on: signature and hashes, proof, trial, switch, and back."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from edge_mer.alarms.outputs import check_rules
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.bundle.tar import Limits, unpack
from edge_mer.config import DaemonConfig
from edge_mer.daemon.check import check_trust, trusted_keys
from edge_mer.daemon.store import BundleStore
from edge_mer.daemon.verbs import Verbs
from edge_mer.errors import BundleError, EdgeMerError, MissingError, UsageError
from edge_mer.runtime.memory import give_back_memory
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.switching import Trial

SwapPhase = Literal[
    "none", "checking", "building", "warming_up", "shadowing", "switched", "kept", "refused", "rolled_back"
]

BUILD_TIMEOUT_S = 3600.0
PROVE_TIMEOUT_S = 900.0
MEMORY_FACTOR, MEMORY_EXTRA_BYTES = 3, 256 << 20
"""What a bundle takes while it comes in: engines, beside them those that prove it, and their process."""

RELIEF = "relief"
"""Who asks for another candidate."""

Outcome = tuple[SwapPhase, str]
"""What came of a change, and why."""

_JOIN_S = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwapState:
    """How the last change of bundle goes.

    Attributes:
        state: What is being done, or what came of it.
        bundle_id: Of the newcomer; None before it is known.
        why: Why it was refused or rolled back.
        who: Who asked for it.
    """

    state: SwapPhase = "none"
    bundle_id: str | None = None
    why: str = ""
    who: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Host(Protocol):
    """The daemon, as far as a change of bundle has to do with it."""

    def open_engines(self, bundle: Bundle, precision: str | None = None) -> PipelineSetup:
        """Engines of a bundle, as the configuration wants them, or of another candidate."""

    def propose(self, setup: PipelineSetup) -> Trial:
        """Begin a trial in the session that runs."""

    def serve(self, bundle: Bundle, setup: PipelineSetup) -> PipelineSetup:
        """These engines predict from now on; returns those that did."""

    def is_built(self) -> bool:
        """Whether what serves was chosen by `build-engine`, so that a newcomer should be, too."""

    def note(self, event: str, who: str, **details: object) -> None:
        """Have something written into the audit log."""


class Swaps:
    """Changes of bundle, one at a time, in a thread of their own.

    Args:
        host: The daemon.
        store: Keeps the bundles.
        config: Says whom to trust, and how large a bundle may be.
        tell: Called with each new state.

    Attributes:
        state: How the last change goes.
        is_busy: One is under way.

    Raises:
        UsageError: A trusted key cannot be read.
    """

    def __init__(
        self, host: Host, store: BundleStore, config: DaemonConfig, tell: Callable[[SwapState], None]
    ) -> None:
        self._host, self._store, self._tell = host, store, tell
        self._trusted = trusted_keys(config)
        self._max_bytes = config.http.max_bundle_mb << 20
        self._rules = config.alarms
        self._verbs = Verbs()
        self.is_busy = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._n = 0
        self.state = SwapState()

    def begin(self, fd: int, who: str) -> dict[str, Any]:
        """Begin to change to the bundle in a tar that is open; returns at once, and owns the descriptor.

        Raises:
            UsageError: A change is under way.
        """
        try:
            self._start(who, lambda: self._from_tar(fd, who))
        except EdgeMerError:
            os.close(fd)
            raise
        return self.state.to_dict()

    def roll_back(self, who: str) -> dict[str, Any]:
        """Begin to change to the bundle that served before; returns at once.

        Raises:
            UsageError: There is none, or a change is under way.
        """
        previous = self._store.previous
        if previous is None:
            raise UsageError("there is no bundle to go back to", hint="swap one in: edge-mer daemon swap")
        self._start(who, lambda: self._change(previous, who, is_proven=True))
        return self.state.to_dict()

    def to_candidate(self, precision: str | None) -> None:
        """Begin to change to another candidate of the bundle that serves, None: the one that was chosen.

        Raises:
            UsageError: A change is under way.
        """
        self._start(RELIEF, lambda: self._to_candidate(precision))

    def check(self, bundle: Bundle) -> None:
        """Whether a bundle may run here at all: whole, and signed where that is asked for.

        Raises:
            BundleError: It may not.
        """
        check_trust(bundle, self._trusted)

    def stop(self) -> None:
        """End what is being done, and wait for it."""
        self._verbs.stop()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    # -- its thread --------------------------------------------------------------------------------

    def _start(self, who: str, what: Callable[[], Outcome]) -> None:
        with self._lock:
            if self.is_busy:
                raise UsageError(
                    "another change of bundle is under way",
                    found=self.state.state,
                    hint="ask again once it is over",
                )
            self.is_busy, self.state = True, SwapState("checking", who=who)
            self._thread = threading.Thread(
                target=self._guarded, args=(what,), name="edge-mer swap", daemon=True
            )
            self._thread.start()

    def _guarded(self, what: Callable[[], Outcome]) -> None:
        try:
            phase, why = what()
        except Exception as error:  # predictions go on, whatever it is
            if not isinstance(error, EdgeMerError):
                _log.exception("a change of bundle failed")
            phase, why = "refused", str(error)
        self._store.clean()
        gc.collect()  # a pipeline is a ring of objects, with pictures in it
        give_back_memory()
        if self.state.who != RELIEF:
            self._host.note(f"swap.{phase}", self.state.who, bundle_id=self.state.bundle_id, why=why)
        self.is_busy = False  # who hears of the end may ask for the next change
        self._become(phase, why=why)

    def _become(self, state: SwapPhase, bundle_id: str | None = None, why: str = "") -> None:
        self.state = SwapState(state, bundle_id or self.state.bundle_id, why, self.state.who)
        _log.info("swap: %s%s", state, f": {why}" if why else "")
        self._tell(self.state)

    def _from_tar(self, fd: int, who: str) -> Outcome:
        self._host.note("swap.asked", who)
        self._n += 1
        folder = self._store.place_for(self._n)
        with os.fdopen(fd, "rb") as file:
            unpack(file, folder, Limits(file_bytes=self._max_bytes, total_bytes=self._max_bytes))
        return self._change(folder, who, is_proven=False)

    def _change(self, folder: Path, who: str, *, is_proven: bool) -> Outcome:
        bundle = open_bundle(folder)
        self._become("checking", bundle.bundle_id)
        self.check(bundle)
        check_rules(self._rules, bundle.manifest.model)
        if not is_proven:
            _refuse_if_too_large(bundle)
            self._become("building")
            self._prove(folder)
        setup, trial = self._tried(bundle, None)
        return self._switched(bundle, setup, trial, who)

    def _tried(self, bundle: Bundle, precision: str | None) -> tuple[PipelineSetup, Trial]:
        """Engines that have taken over.

        Raises:
            BundleError: They do not do as well as those that serve.
        """
        self._become("warming_up", bundle.bundle_id)
        setup = self._host.open_engines(bundle, precision)
        try:
            _warm_up(setup)
            self._become("shadowing")
            trial = self._host.propose(setup)
            if trial.wait_beyond("waiting", "shadowing") == "refused":
                trial.join(_JOIN_S)
                raise BundleError(f"bundle {bundle.bundle_id[:23]}… does not serve", found=trial.why)
        except BaseException:
            setup.close()
            raise
        return setup, trial

    def _to_candidate(self, precision: str | None) -> Outcome:
        bundle = open_bundle(self._store.current)
        setup, trial = self._tried(bundle, precision)
        served = self._host.serve(bundle, setup)
        self._become("switched")
        is_kept = trial.wait_beyond("switched") != "rolled_back"
        if not is_kept:
            self._host.serve(bundle, served)
        trial.join(_JOIN_S)
        (served if is_kept else setup).close()
        return "kept" if is_kept else "rolled_back", trial.why

    def _prove(self, folder: Path) -> None:
        """Golden parity in a process of its own: what crashes there crashes nothing here."""
        if self._host.is_built():
            self._verbs.run(["build-engine", str(folder)], BUILD_TIMEOUT_S)
        else:
            self._verbs.run(["verify", str(folder), "--precision", "fp32"], PROVE_TIMEOUT_S)

    def _switched(self, bundle: Bundle, setup: PipelineSetup, trial: Trial, who: str) -> Outcome:
        before = open_bundle(self._store.current)
        self._store.take(placed := self._store.place(bundle.path))
        served = self._host.serve(open_bundle(placed), setup)
        self._become("switched")
        self._host.note("swap.switched", who, bundle_id=bundle.bundle_id, before=before.bundle_id)
        is_kept = trial.wait_beyond("switched") != "rolled_back"
        if not is_kept:
            self._store.take(before.path)
            self._host.serve(before, served)
        trial.join(_JOIN_S)
        (served if is_kept else setup).close()
        return "kept" if is_kept else "rolled_back", trial.why


def _warm_up(setup: PipelineSetup) -> None:
    """Run each engine once on nothing: its memory is there, and its kernels are chosen, before it counts."""
    for engine in setup.engines.values():
        engine.infer()


def _refuse_if_too_large(bundle: Bundle) -> None:
    """Too little memory is said before it hurts.

    Raises:
        MissingError: It needs more than there is.
    """
    files = bundle.manifest.files
    stages = sum(files[path].n_bytes for path in files if path.endswith(".fp32.onnx"))
    needed, free = MEMORY_FACTOR * stages + MEMORY_EXTRA_BYTES, free_memory_bytes()
    if free is not None and needed > free:
        raise MissingError(
            f"bundle {bundle.bundle_id[:23]}… may need {needed >> 20} MiB beside the one that serves",
            found=f"{free >> 20} MiB are free",
            hint="stop the daemon, set `bundle` in its configuration, and start it again",
        )


def free_memory_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What processes may still take, of the machine and of this process' share of it; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) << 10)
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = (proc / "self" / "cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
        most = int((cgroup / group / "memory.max").read_text())
        found.append(most - int((cgroup / group / "memory.current").read_text()))
    return min(found, default=None)
