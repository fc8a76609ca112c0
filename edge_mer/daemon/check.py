"""Whether a configuration can be carried out, said without opening a sensor or calling anybody."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edge_mer.alarms.outputs import check_rules
from edge_mer.bundle.keys import TrustedKey, read_trusted_keys
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.bundle.sign import verify_signature
from edge_mer.config import DaemonConfig
from edge_mer.errors import EdgeMerError, UsageError
from edge_mer.runtime.opening import Opened, open_all
from edge_mer.sinks.registry import open_sink


def problems(config: DaemonConfig) -> list[EdgeMerError]:
    """All that keeps the process that infers from carrying it out; empty where nothing does."""
    found: dict[str, EdgeMerError] = {}
    for check in _checks(config):
        try:
            check()
        except EdgeMerError as error:
            found.setdefault(str(error), error)
    return list(found.values())


def _checks(config: DaemonConfig) -> Iterator[Callable[[], object]]:
    yield lambda: _check_session(config)
    yield lambda: check_trust(open_bundle(config.bundle), trusted_keys(config))
    if "state_dir" in config.model_fields_set:  # else systemd makes it
        yield lambda: _check_state(config.state_dir)
    if "run_dir" in config.model_fields_set:
        yield lambda: _check_folder(config.run_dir, f"run_dir {config.run_dir}")
    for uri in config.file_sinks:
        yield lambda uri=uri: _check_file(open_sink(uri).target)  # type: ignore[misc]
    if config.record is not None:
        yield lambda: _check_file(None if config.record is None else config.record.file)


def trusted_keys(config: DaemonConfig) -> tuple[TrustedKey, ...]:
    """Whose signature a bundle needs; empty: nobody's.

    Raises:
        UsageError: One cannot be read.
    """
    paths = config.bundles.trusted_keys
    return tuple(read_trusted_keys(paths)) if paths else ()


def check_trust(bundle: Bundle, trusted: Sequence[TrustedKey]) -> None:
    """Whether a bundle may run here at all: whole, and signed where that is asked for.

    Raises:
        BundleError: It may not.
    """
    if trusted:
        verify_signature(bundle, trusted)
    bundle.check_files()


def opened(config: DaemonConfig, bundle: Bundle | Path) -> Opened:
    """What a session of this configuration runs on.

    Raises:
        EdgeMerError: It cannot be carried out, or its sources end.
    """
    found = open_all(
        bundle,
        config.sources,
        config.file_sinks,
        precision=config.precision,
        missing=config.missing,
        face_detector=config.face_detector,
        hop=config.hop,
        people=config.people,
        engine=config.engine,
    )
    recorded = [source.uri for source in found.sources if not source.is_live]
    if recorded:
        raise UsageError(
            f"a daemon cannot run on {', '.join(recorded)}, which end",
            expected="live sources, e.g. camera:0 or sim-live:",
        )
    return found


def _check_session(config: DaemonConfig) -> None:
    found = opened(config, config.bundle)
    found.setup.close()
    check_rules(config.alarms, found.setup.model)


def _check_state(path: Path) -> None:
    """It is made where it is not there yet."""
    there = next(one for one in (path, *path.parents) if one.exists())
    _check_folder(there, f"state_dir {path}")


def _check_file(path: Path | None) -> None:
    if path is None:
        return
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}", found="something that is no plain file", hint="name a file")
    _check_folder(path.parent, f"{path}")


def _check_folder(folder: Path, what: str) -> None:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"cannot write {what}",
            expected=f"a folder {folder} that may be written to",
            found="it may not be" if folder.is_dir() else "a file" if folder.exists() else "nothing",
            hint="make it, or give it to the user that the daemon runs as",
        )
