"""The page about alarms has every key, every event and rules that hold."""

from __future__ import annotations

import re
import typing
from pathlib import Path

from edge_mer.config import tomllib
from edge_mer.types.alarms import AlarmEventKind, AlarmRule

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to-alarms.md").read_text(encoding="utf-8")


def first_column(head: str) -> set[str]:
    """Names in backticks in the first column of the table with that head."""
    table = PAGE[PAGE.index(f"| {head} |") :].split("\n\n")[0]
    cells = re.findall(r"^\| ([^|]*) \|", table, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_key_of_a_rule_is_explained() -> None:
    assert first_column("Key") == set(AlarmRule.model_fields)


def test_every_event_is_explained() -> None:
    assert first_column("Event") == set(typing.get_args(AlarmEventKind))


def test_the_rules_in_the_configuration_hold() -> None:
    [written] = re.findall(r"```toml\n(.+?)```", PAGE, flags=re.DOTALL)
    rules = [AlarmRule.model_validate(table) for table in tomllib.loads(written)["alarms"]]
    assert [rule.name for rule in rules] == ["high-pain", "cannot-see"]
