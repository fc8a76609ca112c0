"""`edge-mer`: finds the verb asked for and loads nothing else."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

import typer

import edge_mer
from edge_mer.errors import EdgeMerError, MissingError


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        help: One line.
        target: "module:function"; None for a verb of a workbench, found by its entry point.
        extra: What `pip install 'edge-mer[…]'` brings it.
    """

    help: str
    target: str | None = None
    extra: str | None = None


VERBS = {
    "train": Verb("Train a model on labelled sessions.", extra="export"),
    "qat": Verb("Tune weights so that 8 bits keep their numbers.", extra="export"),
    "export": Verb("Turn a checkpoint into a proven bundle.", extra="export"),
    "calibrate": Verb("Add candidates in few bits to a bundle.", extra="calibrate"),
    "evaluate": Verb("Hold a bundle's estimates against labels.", extra="calibrate"),
    "build-engine": Verb(
        "Choose the fastest right candidate here.",
        "edge_mer.cli.build_engine:build_engine",
    ),
    "verify": Verb("Prove a bundle again, on this device.", "edge_mer.cli.verify:verify"),
    "run": Verb("Run a bundle on sources.", "edge_mer.cli.run:run"),
    "daemon": Verb("Run for months, and serve predictions.", "edge_mer.cli.daemon:daemon", extra="daemon"),
    "record": Verb("Keep what sources give in a file.", "edge_mer.cli.record:record"),
    "sources": Verb("List the sensors that are attached.", "edge_mer.cli.sources:sources"),
    "bench": Verb("Measure what a prediction costs here, part by part.", "edge_mer.cli.bench:bench"),
    "report": Verb("Show a run, or a bundle's candidates, as one page.", "edge_mer.cli.report:report"),
    "bundle": Verb("Show, sign, check and pack bundles.", "edge_mer.cli.bundle:bundle"),
    "doctor": Verb("Say what this machine lacks, and what mends it.", "edge_mer.cli.doctor:doctor"),
    "demo": Verb("Walk a tiny model through all of it.", "edge_mer.cli.demo:demo", "export,calibrate"),
}

app = typer.Typer(
    name="edge-mer",
    help="Fusion models of emotion and pain on small devices, with numbers that keep their meaning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def load_verb(name: str) -> Callable[..., None] | typer.Typer:
    """The function behind a verb; of a verb with verbs of its own, its command line.

    Raises:
        MissingError: The packages that it needs are not installed.
    """
    return load(name, VERBS[name], "edge_mer.verbs")


def load(name: str, verb: Verb, group: str) -> Callable[..., None] | typer.Typer:
    """The function behind any verb.

    Args:
        name: As it is typed, after "edge-mer".
        verb: Where it is.
        group: Of entry points, where a workbench names it by its last word.

    Raises:
        MissingError: The packages that it needs are not installed.
    """
    target = verb.target
    if target is None:
        last = name.rpartition(" ")[2]
        target = next((e.value for e in entry_points(group=group) if e.name == last), None)
    if target is None:
        raise _missing(name, verb, "it is not installed")
    module_name, _, attribute = target.partition(":")
    try:
        loaded: Callable[..., None] | typer.Typer = getattr(import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "edge_mer":
            raise
        raise _missing(name, verb, f"no module {error.name}") from error
    return loaded


def _missing(name: str, verb: Verb, found: str) -> MissingError:
    extra = f"edge-mer[{verb.extra}]" if verb.extra else "edge-mer"
    return MissingError(f"edge-mer {name} needs more packages", found=found, hint=f"pip install '{extra}'")


def verb_app(name: str) -> typer.Typer:
    """A verb as a command line of its own."""
    loaded = load_verb(name)
    if isinstance(loaded, typer.Typer):
        loaded.info.help = VERBS[name].help
        return loaded
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    one.command(name=name, help=VERBS[name].help)(loaded)
    return one


def _register(name: str, verb: Verb) -> None:
    # Arguments pass through untouched: the verb's own command line reads them, and its help too.
    @app.command(
        name,
        help=verb.help,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )
    def stub(context: typer.Context) -> None:
        verb_app(name)(args=context.args, prog_name=f"edge-mer {name}")


for _name, _verb in VERBS.items():
    _register(_name, _verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edge-mer {edge_mer.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None: ...


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code.

    0 done; 1 a bug of edge-mer; 2 usage or configuration; 3 unusable data or bundle; 4 a parity
    gate refused; 5 hardware, an engine or a package missing; 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _end_like_ctrl_c()
    debug = "--debug" in arguments
    try:
        app(args=[argument for argument in arguments if argument != "--debug"], prog_name="edge-mer")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except KeyboardInterrupt:
        typer.echo("edge-mer: interrupted", err=True)
        return 130
    except EdgeMerError as error:
        _explain(f"edge-mer: {error}", debug=debug)
        return error.exit_code
    except Exception as error:  # whatever is not an EdgeMerError is a bug of ours
        what = f"{type(error).__name__}: {error}"
        _explain(
            f"edge-mer: internal error: {what}. Next: run again with --debug and report it.", debug=debug
        )
        return 1
    return 0


def _end_like_ctrl_c() -> None:
    """SIGTERM and SIGHUP end a session as Ctrl-C does: sources released, sinks closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)


def _explain(message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    typer.echo(message, err=True)


if __name__ == "__main__":
    sys.exit(main())
