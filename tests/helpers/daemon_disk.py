"""What a daemon has on its disk: looked at between the moment that it is killed and the next begin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mcap.reader import make_reader

from edge_mer.alarms.board import AlarmBoard
from edge_mer.audit import check_audit, read_audit
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.clock import NS_PER_S
from edge_mer.config import DaemonConfig
from edge_mer.daemon.alarm_desk import FILE_NAME
from edge_mer.daemon.service import AUDIT_NAME
from edge_mer.errors import EdgeMerError
from edge_mer.runtime.repair import repair
from edge_mer.sources.recorded_parts import PartReader

PROMISED_S = 1.0
"""A recording loses at most so much with its process."""


@dataclass
class DaemonDisk:
    """All looks at what a daemon has on its disk.

    Args:
        config: The daemon's, with one sink that is a `log:`.

    Attributes:
        faults: What is not as it should be.
        n_audit: Records of the audit log.
        n_audit_torn: Unfinished lines of it.
        n_lines: Predictions in the log.
        n_lines_torn: Unfinished lines of it.
        lost_s: Seconds that each recording lost with its process.
        n_recorded: Messages in all recordings.
        n_begun: Recordings that were killed before they had any, all younger than `PROMISED_S`.
    """

    config: DaemonConfig
    faults: list[str] = field(default_factory=list)
    n_audit: int = 0
    n_audit_torn: int = 0
    n_lines: int = 0
    n_lines_torn: int = 0
    lost_s: list[float] = field(default_factory=list)
    n_recorded: int = 0
    n_begun: int = 0
    _seen: set[Path] = field(default_factory=set)

    def look(self, killed_ns: int | None, acknowledged: frozenset[str] = frozenset()) -> None:
        """Check all that is there.

        Args:
            killed_ns: UTC at which the daemon was killed, since 1970; None: it ended cleanly.
            acknowledged: Alarms of which somebody was told that they are.
        """
        self._look_at_audit(acknowledged)
        if (bundle := self.current()) is not None:
            self._look_at_alarms(bundle, acknowledged)
        self._look_at_predictions()
        if self.config.record is not None:
            record = self.config.record.file
            for path in sorted(record.parent.glob(f"{record.stem}-*{record.suffix}")):
                if path not in self._seen:
                    self._seen.add(path)
                    self._look_at_recording(path, killed_ns)

    def current(self) -> Bundle | None:
        """The bundle that is to serve next; all of its files are there, and those of the one before."""
        folder = self.config.state_dir / "bundles"
        try:
            record = json.loads((folder / "current.json").read_text(encoding="utf-8"))
            names = [record["current"], record["previous"]]
        except FileNotFoundError:
            names = ["", None]
        except (ValueError, KeyError) as error:
            self.faults.append(f"current.json: {error}")
            return None
        try:
            found = [
                open_bundle(folder / name if name else self.config.bundle)
                for name in names
                if name is not None
            ]
            for bundle in found:
                bundle.check_files()
        except EdgeMerError as error:
            self.faults.append(f"a bundle: {error}")
            return None
        return found[0]

    def stray(self) -> list[str]:
        """Files that nobody will ever need again; of a daemon that runs, or ended cleanly."""
        config, folder = self.config, self.config.state_dir / "bundles"
        kept = {FILE_NAME, AUDIT_NAME, "bundles"}
        found = [one for one in config.state_dir.iterdir() if one.name not in kept]
        if (folder / "current.json").exists():
            record = json.loads((folder / "current.json").read_text(encoding="utf-8"))
            kept = {"current.json", record["current"], record["previous"]}
        else:
            kept = set()
        return [str(one) for one in [*found, *folder.iterdir()] if one.name not in kept]

    def _look_at_audit(self, acknowledged: frozenset[str]) -> None:
        path = self.config.state_dir / AUDIT_NAME
        if not path.exists():
            return
        check = check_audit(path)
        self.n_audit, self.n_audit_torn = check.n_records, check.n_torn
        self.faults += [f"{one.path.name}, line {one.line}: {one.what}" for one in check.breaks]
        noted = {one["details"]["id"] for one in read_audit(path) if one["event"] == "alarm.acknowledged"}
        self.faults += [f"the audit log knows nothing of {one}" for one in acknowledged - noted]

    def _look_at_alarms(self, bundle: Bundle, acknowledged: frozenset[str]) -> None:
        path = self.config.state_dir / FILE_NAME
        try:
            board = AlarmBoard.load(path, self.config.alarms, model=bundle.manifest.model)
        except EdgeMerError as error:
            self.faults.append(f"alarms: {error}")
            return
        forgotten = [one.id for one in board.active() if one.acknowledged_by is None]
        self.faults += [f"{one} was acknowledged, and is not" for one in acknowledged & {*forgotten}]

    def _look_at_predictions(self) -> None:
        self.n_lines = self.n_lines_torn = 0
        for line in self._predictions():
            try:
                json.loads(line)
                self.n_lines += 1
            except ValueError:
                self.n_lines_torn += 1

    def _predictions(self) -> Iterator[bytes]:
        """Lines of all files of the log."""
        (uri,) = (uri for uri in self.config.sinks if uri.startswith("log:"))
        path = Path(uri.removeprefix("log:").partition("?")[0])
        for one in path.parent.glob(f"{path.name}*"):
            yield from one.read_bytes().splitlines()

    def _look_at_recording(self, path: Path, killed_ns: int | None) -> None:
        """What is there is whole and lacks no more than promised; any reader takes it once it is mended."""
        with path.open("rb") as file:
            reader = PartReader(file)
            times_ns = [message.log_time for part in reader for message in part.messages]
            if reader.n_lost or (killed_ns is None and reader.was_cut):
                self.faults.append(f"{path.name}: {reader.n_lost} parts lost, cut: {reader.was_cut}")
        if killed_ns is not None:
            since_ns = max(times_ns) if times_ns else path.stat().st_mtime_ns
            lost_s = (killed_ns - since_ns) / NS_PER_S
            self.lost_s.append(round(lost_s, 3))
            if lost_s > PROMISED_S:
                self.faults.append(f"{path.name} lost {lost_s:.2f} s")
        if not times_ns:
            self.n_begun += 1
            return
        self.n_recorded += len(times_ns)
        if killed_ns is not None:
            self._look_at_mended(path, len(times_ns))

    def _look_at_mended(self, path: Path, n_messages: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            mended = Path(folder) / path.name
            repair(path, mended)
            with mended.open("rb") as file:
                topics = [
                    channel.topic for _, channel, _ in make_reader(file, validate_crcs=True).iter_messages()
                ]
        if len(topics) < n_messages:  # beside them, each part has a message about itself
            self.faults.append(f"{path.name}: mended, it has {len(topics)} messages of {n_messages}")
