"""Writes the tables of `docs/http-api.md` from what the gateway says of itself.

.venv/bin/python tests/helpers/make_http_reference.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from edge_mer.clock import MonotonicClock  # noqa: E402
from edge_mer.gateway.app import Surroundings, make_routes  # noqa: E402
from edge_mer.gateway.bridge import Bridge  # noqa: E402
from edge_mer.gateway.feed import Feed  # noqa: E402
from edge_mer.gateway.limits import Limits  # noqa: E402
from edge_mer.gateway.metrics import Metrics  # noqa: E402
from tests.helpers.inference import HELLO, SERVER, health  # noqa: E402

PAGE = ROOT / "docs" / "http-api.md"

_RIGHTS = {
    "POST /v1/alarms/{alarm_id}/acknowledge": "`acknowledge`",
    "POST /v1/bundle": "`swap`",
    "POST /v1/bundle/rollback": "`swap`",
}
_OWN_HEALTH = {
    "n_clients": 0,
    "n_connections": 0,
    "n_connections_refused": 0,
    "n_connections_cut": 0,
    "n_events_dropped": 0,
    "sinks": [{"target": "mqtt:", "n_dropped": 0, "trouble": ""}],
}


def described() -> dict[str, Any]:
    """What `/openapi.json` says; nothing of it depends on the configuration."""
    clock = MonotonicClock()
    feed = Feed(clock)
    around = Surroundings(feed, Bridge(Path("none"), feed), (), (), Path(), clock, Limits(), own_health=dict)
    return make_routes(around).openapi()


def table_of_routes() -> str:
    """Method, path, right and purpose of each route."""
    rows = ["| Route | Right | What it gives or does |", "|---|---|---|"]
    for path, methods in described()["paths"].items():
        for method, about in methods.items():
            route = f"{method.upper()} {path}"
            right = _RIGHTS.get(route, "`read`") if "security" in about else ""
            rows.append(
                f"| `{route}` | {right} | {about['description'].partition('. First')[0].rstrip('.')} |"
            )
    return "\n".join(rows)


def table_of_metrics() -> str:
    """Name, labels and meaning of each metric."""
    feed = Feed(MonotonicClock())
    feed.take(HELLO)
    feed.take({"kind": "health", "health": health(power_w=10.0, server=SERVER)})
    rows = ["| Metric | Labels | Meaning |", "|---|---|---|"]
    text = Metrics(feed, lambda: _OWN_HEALTH).text().decode()
    for family in text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        labels = sorted({label for sample in family.samples for label in sample.labels})
        rows.append(f"| `{family.name}{suffix}` | {_listed(labels)} | {family.documentation} |")
    return "\n".join(rows)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def page() -> str:
    """The whole page, its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("routes", table_of_routes()), ("metrics", table_of_metrics())):
        text = re.sub(
            f"<!-- {name} -->\n.*?<!-- /{name} -->",
            lambda _, name=name, table=table: f"<!-- {name} -->\n{table}\n<!-- /{name} -->",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
