"""An alarm in words."""

from __future__ import annotations

from edge_mer.types.alarms import Alarm, AlarmRule


def worded(alarm: Alarm, rule: AlarmRule | None) -> str:
    """One line for people: what it is, whose, and how it stands.

    Args:
        alarm: As it is now; its own `text` is not looked at.
        rule: What it was raised by; None where it is gone.
    """
    whose = f" of {alarm.person}" if alarm.person is not None else ""
    return f"{alarm.name}: {_cause(alarm, rule, whose)}{_standing(alarm)}"


def _cause(alarm: Alarm, rule: AlarmRule | None, whose: str) -> str:
    if alarm.output is None:
        return f"no estimate for {alarm.value:.1f} s"
    side = "above" if alarm.value > alarm.threshold else "below"
    lasting = f", for {rule.for_s:g} s" if rule is not None and rule.for_s else ""
    return f"{alarm.output}{whose} {alarm.value:.3g}, {side} {alarm.threshold:g}{lasting}"


def _standing(alarm: Alarm) -> str:
    said = {"active": "", "latched": "; now over", "acknowledged": "", "ended": "; ended"}[alarm.state]
    if alarm.acknowledged_by is not None:
        said += f"; acknowledged by {alarm.acknowledged_by}"
    if alarm.is_gone:
        return said + "; watched no more"
    return said if alarm.sees else said + "; cannot be seen now"
