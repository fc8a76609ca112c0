"""Recordings of a daemon: one for each of its sessions."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from edge_mer.daemon.service import named_by_time


def test_each_session_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Also when the configuration is read twice in a second, or a clock is set back at each start."""
    utc = datetime(2026, 11, 22, 20, 15, 0, 250_000, timezone.utc)
    names = []
    for _ in range(3):
        path = named_by_time(tmp_path / "session.mcap", utc)
        path.touch()
        names.append(path.name)
    assert names == [
        "session-20261122T201500Z.mcap",
        "session-20261122T201500Z-2.mcap",
        "session-20261122T201500Z-3.mcap",
    ]
    (tmp_path / "session-20261122T201501Z.mcap").symlink_to(tmp_path / "nowhere")
    later = named_by_time(tmp_path / "session.mcap", utc.replace(second=1))
    assert later.name == "session-20261122T201501Z-2.mcap", "a link that leads nowhere is there, too"
