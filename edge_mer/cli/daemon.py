"""`edge-mer daemon`: runs for months, and is asked to change what it runs."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_mer.clock import MonotonicClock
from edge_mer.config import DaemonConfig, read_config
from edge_mer.errors import DataError, EdgeMerError, MissingError, ParityError
from edge_mer.link.client import LinkClient

daemon = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_ASK_AGAIN_S = 0.5


class Part(str, Enum):
    """One of the daemon's two processes."""

    inference = "inference"
    gateway = "gateway"


_Config = Annotated[Path, typer.Option(help="The configuration, in TOML.")]


@daemon.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    config: _Config = Path("edge-mer.toml"),
    check: Annotated[
        bool, typer.Option("--check", help="Say whether the configuration can be carried out, and end.")
    ] = False,
    only: Annotated[
        Part | None, typer.Option(help="Run one of the two processes, and leave the other to somebody else.")
    ] = None,
    print_unit: Annotated[
        bool,
        typer.Option("--print-unit", help="Show the units for systemd that would be installed, and end."),
    ] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Install units for systemd, and say what to call next.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace units that somebody edited.")] = False,
) -> None:
    """Run what the configuration says, until stopped; read it again on SIGHUP."""
    if context.invoked_subcommand is not None:
        return
    found = read_config(config)
    if print_unit or install:
        _units(config, found, install=install, force=force)
        return
    if check:
        _check(found)
        typer.echo(f"{config} can be carried out.")
        return
    logging.basicConfig(level=logging.INFO, format="edge-mer: %(message)s", stream=sys.stderr)
    if only is Part.gateway:
        _serve(config, found)
        return
    _infer(config, found, with_gateway=only is None)


def _units(path: Path, config: DaemonConfig, *, install: bool, force: bool) -> None:
    from edge_mer.daemon import systemd

    here = systemd.installation_here(path, config, systemd.this_command())
    made = systemd.units(here)
    if not install:
        for name, text in made.items():
            typer.echo(f"# {name}\n{text}")
        return
    for written in systemd.install(made, force=force):
        typer.echo(f"Wrote {written}")
    typer.echo("Next:\n" + "\n".join(f"  {line}" for line in systemd.next_commands(here, list(made))))


def _check(config: DaemonConfig) -> None:
    """Say all that is wrong.

    Raises:
        EdgeMerError: The last of it.
    """
    from edge_mer.daemon import check
    from edge_mer.gateway import checks

    old = checks.outdated(config, MonotonicClock().utc())
    _refuse([*check.problems(config), *checks.problems(config), *([] if old is None else [old])])


def _refuse(wrong: list[EdgeMerError]) -> None:
    for error in wrong[:-1]:
        typer.echo(f"edge-mer: {error}", err=True)
    if wrong:
        raise wrong[-1]


def _serve(path: Path, config: DaemonConfig) -> None:
    try:
        from edge_mer.gateway.serve import main
    except ModuleNotFoundError as error:
        raise MissingError(
            "the gateway needs more packages",
            found=f"no module {error.name}",
            hint="pip install 'edge-mer[daemon]'",
        ) from error
    main(path, config)


def _infer(path: Path, config: DaemonConfig, *, with_gateway: bool) -> None:
    from edge_mer.daemon.gateway_child import GatewayChild
    from edge_mer.daemon.notify import Notifier
    from edge_mer.daemon.service import Service
    from edge_mer.gateway import checks
    from edge_mer.runtime.memory import keep_few_pools

    keep_few_pools()
    clock = MonotonicClock()
    if not with_gateway:
        service = Service(path, config, clock, Notifier())
        _on_signals(service.stop, service.reload)
        service.run()
        return
    _refuse(checks.problems(config))
    child = GatewayChild(path, clock)
    service = Service(path, config, clock, Notifier(), on_reload=child.want, also=checks.problems)
    _on_signals(service.stop, service.reload)
    child.start()
    child.want(config)
    try:
        service.run()
    finally:
        child.stop()


def _on_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    signal.signal(signal.SIGHUP, lambda *_: reload())


@daemon.command()
def swap(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder, or its .tar.")],
    config: _Config = Path("edge-mer.toml"),
) -> None:
    """Have a running daemon change to another bundle between two predictions, once it is proven here."""
    with LinkClient(read_config(config).link_path) as link, tempfile.TemporaryFile() as file:
        if bundle.is_file():
            file.write(bundle.read_bytes())
        else:
            from edge_mer.bundle.read import open_bundle
            from edge_mer.bundle.tar import pack

            pack(open_bundle(bundle), file)
        file.seek(0)
        link.ask("swap", _who(), file.fileno())
        _follow(link)


@daemon.command()
def rollback(config: _Config = Path("edge-mer.toml")) -> None:
    """Have a running daemon change back to the bundle that it ran before."""
    with LinkClient(read_config(config).link_path) as link:
        link.ask("rollback", _who())
        _follow(link)


def _follow(link: LinkClient) -> None:
    """Say how a change of bundle goes, to its end.

    Raises:
        ParityError: It was refused.
    """
    told, n_none = "", 0
    while True:
        message = link.receive(_ASK_AGAIN_S)
        if message is None or message["kind"] != "health":
            continue
        found: dict[str, Any] = message["health"]["swap"]
        if found["state"] == "none":  # one may be older than what was asked for
            n_none += 1
            if n_none > 1:
                raise ParityError("it was broken off", found="another configuration was taken over meanwhile")
            continue
        if found["state"] != told:
            told = found["state"]
            typer.echo(_WORDS.get(told, told))
        if told in ("refused", "rolled_back"):
            raise ParityError("the bundle before goes on", found=found["why"])
        if told == "kept":
            return


_WORDS = {
    "checking": "Checking signature and hashes.",
    "building": "Proving it on this device.",
    "warming_up": "Opening its engines.",
    "shadowing": "Running it beside the one that serves.",
    "switched": "It serves; the one before is kept beside it for a while.",
    "kept": "Done.",
    "refused": "Refused.",
    "rolled_back": "Rolled back.",
}


@daemon.command()
def status(config: _Config = Path("edge-mer.toml")) -> None:
    """Say how a running daemon is, as JSON."""
    import json

    with LinkClient(read_config(config).link_path) as link:
        typer.echo(json.dumps(link.ask("status", _who()), indent=2))


@daemon.command()
def audit(
    config: _Config = Path("edge-mer.toml"),
    last: Annotated[int, typer.Option(min=0, help="How many of the newest records to show.")] = 20,
) -> None:
    """Show the newest records of the audit log, and say whether all of it is as it was written."""
    from collections import deque

    from edge_mer.audit import AUDIT_NAME, check_audit, read_audit

    path = read_config(config).state_dir / AUDIT_NAME
    for record in deque(read_audit(path), maxlen=last):
        typer.echo(_audit_line(record))
    found = check_audit(path)
    for one in found.breaks:
        typer.echo(f"edge-mer: {one.path}, line {one.line}: {one.what}", err=True)
    if found.breaks:
        raise DataError("the audit log is not what was written", found=f"{len(found.breaks)} breaks in it")
    torn = f", {found.n_torn} unfinished lines that a power cut left" if found.n_torn else ""
    typer.echo(f"{found.n_records} records, each as it was written{torn}; newest {found.newest}")


def _audit_line(record: dict[str, Any]) -> str:
    """A record on one line; nothing in it can steer a terminal."""
    import json

    words = [record["utc"], record["event"], record["who"] or "-"]
    plain = " ".join(json.dumps(str(word))[1:-1] for word in words)
    return f"{plain} {json.dumps(record['details'], sort_keys=True)}"


@daemon.command()
def token(name: Annotated[str, typer.Argument(help="Whose it is, for the audit log.")]) -> None:
    """Make a token for the HTTP interface: shown once, and kept nowhere; the configuration has its hash."""
    import json

    from edge_mer.gateway.auth import make_token

    made, sha256 = make_token()
    typer.echo(f"The token, which nobody can show again:\n\n  {made}\n\nFor the configuration:\n")
    typer.echo(
        f'[[http.tokens]]\nname = {json.dumps(name, ensure_ascii=False)}\nsha256 = "{sha256}"\nmay = ["read"]'
    )


def _who() -> str:
    """Who asks, as the system knows them."""
    import getpass

    try:
        return f"user {getpass.getuser()}"
    except (OSError, KeyError):
        return "somebody here"
