"""Runs the gateway as the daemon does, with limits that a test need not wait for.

python tests/helpers/gateway_process.py CONFIG LIMITS
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

from edge_mer.clock import MonotonicClock
from edge_mer.config import read_config
from edge_mer.errors import EdgeMerError
from edge_mer.gateway.limits import Limits
from edge_mer.gateway.outlets import Outlets
from edge_mer.gateway.serve import main, open_listeners, serve


def run(config_path: str, limits: str) -> None:
    """`main`, but for the limits."""
    config = read_config(Path(config_path))
    if limits == "{}":
        main(Path(config_path), config)
        return
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    clock = MonotonicClock()
    with Outlets(config.network_sinks) as outlets:
        asyncio.run(
            serve(config, open_listeners(config, clock), outlets, clock, Limits(**json.loads(limits)))
        )


if __name__ == "__main__":
    try:
        run(sys.argv[1], sys.argv[2])
    except EdgeMerError as error:
        sys.exit(f"{error}")
