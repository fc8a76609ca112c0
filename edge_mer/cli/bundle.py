"""`edge-mer bundle`: what a bundle says about itself, who signed it, and the bundle as one file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from edge_mer.bundle.keys import (
    is_encrypted,
    read_passphrase,
    read_private_key,
    read_trusted_keys,
    write_key_pair,
)
from edge_mer.bundle.manifest import in_order
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.bundle.sign import read_signature, sign_bundle, verify_signature
from edge_mer.bundle.tar import pack_file, unpack
from edge_mer.cli.common import out, table
from edge_mer.cli.main import Verb, load
from edge_mer.clock import MonotonicClock
from edge_mer.errors import UsageError

WORKBENCH_VERBS = {"triton": Verb("Write a model repository for Triton.", extra="triton")}
"""Found by their entry points, and loaded when they are asked for."""


class _Group(TyperGroup):
    """Puts a workbench's command in the place of what stands for it in the help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and what is left of the words."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in WORKBENCH_VERBS:
            verb = WORKBENCH_VERBS[name]
            one = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
            one.command(name, help=verb.help)(load(f"bundle {name}", verb, "edge_mer.bundle_verbs"))
            command = get_command(one)
        return name, command, rest


bundle = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_Folder = Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")]
_PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="A file of mode 600 whose one line is the private key's passphrase.", metavar="FILE"),
]


@bundle.command()
def inspect(path: _Folder) -> None:
    """Show what a bundle holds."""
    opened = open_bundle(path)
    manifest = opened.manifest
    model, lineage = manifest.model, manifest.lineage
    out.print(f"{model.name}: {model.title}\n{manifest.bundle_id}\nWeights: {lineage.weights}")
    out.print(_said_of_signature(opened), markup=False)
    out.print(f"Parameters: {lineage.n_params:,}, of them pruned {lineage.n_params_pruned:,}")
    step_s, ahead_s = float(model.step), float(model.latency)
    out.print(f"Window: {model.fusion.n_steps} steps of {step_s:.3f} s; looks {ahead_s:.3f} s ahead")
    rows = [
        [
            e.stage,
            e.modality,
            f"{float(e.span):.3f}",
            f"{e.min_coverage:g}",
            e.missing or "abstain (never measured)",
        ]
        for e in model.encoders
    ]
    out.print(table(["encoder", "modality", "span s", "min coverage", "when missing"], rows, title=""))
    sizes = [
        [
            name,
            f"{candidate.n_bytes / 1e6:.2f}",
            ", ".join(f"{o} {e.rms:.2g}" for o, e in candidate.golden.items()),
        ]
        for name in in_order(manifest.candidates)
        for candidate in [manifest.candidates[name]]
    ]
    out.print(
        table(["precision", "MB", "rms error against PyTorch, in standard deviations"], sizes, title="")
    )


def _said_of_signature(opened: Bundle) -> str:
    signature = read_signature(opened)
    if signature is None:
        return "Signature: none"
    name = "" if signature.signer is None else f"{signature.signer}, "
    return (
        f"Signature: says {name}key {signature.key_id}, {signature.signed_utc}; "
        "whether it is right, bundle check-signature tells"
    )


@bundle.command()
def keygen(
    key: Annotated[
        Path,
        typer.Argument(
            help="The private key to write, e.g. lab.key; the public one lies beside it as lab.pub.",
            metavar="KEY",
        ),
    ],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase, and encrypt the private key with it.")
    ] = False,
    passphrase_file: _PassphraseFile = None,
) -> None:
    """Make a private key to sign with, and its public one."""
    secret = None if passphrase_file is None else read_passphrase(passphrase_file)
    if passphrase and secret is None:
        secret = _typed("Passphrase", twice=True)
    made = write_key_pair(key, secret)
    out.print(f"{key}: the private key, for signing; nobody else may have it", markup=False)
    out.print(f"{made.path}: the public key, for the devices; its id is {made.key_id}", markup=False)


@bundle.command()
def sign(
    path: _Folder,
    key: Annotated[Path, typer.Option(help="The private key, as keygen wrote it.", metavar="KEY")],
    signer: Annotated[
        str | None, typer.Option(help="A name to stand in the signature.", metavar="NAME")
    ] = None,
    passphrase_file: _PassphraseFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the signature that is there.")] = False,
) -> None:
    """Hash every file of a bundle, then sign it."""
    opened = open_bundle(path)
    private = read_private_key(key, _passphrase(key, passphrase_file))
    signature = sign_bundle(opened, private, MonotonicClock().utc(), signer, replace=replace)
    out.print(f"{path} is signed: {signature.bundle_id}, key {signature.key_id}", markup=False)


def _passphrase(key: Path, file: Path | None) -> bytes | None:
    if file is not None:
        return read_passphrase(file)
    if not is_encrypted(key):
        return None
    return _typed(f"Passphrase of {key}")


def _typed(question: str, *, twice: bool = False) -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(
            "nobody is there to type a passphrase", found="no terminal", hint="give --passphrase-file"
        )
    try:
        return str(typer.prompt(question, hide_input=True, confirmation_prompt=twice)).encode()
    except typer.Abort as error:
        raise KeyboardInterrupt from error


@bundle.command()
def check_signature(
    path: _Folder,
    trusted: Annotated[
        list[Path],
        typer.Option(help="A public key that counts; may be given several times.", metavar="KEY.pub"),
    ],
) -> None:
    """Prove that a trusted key signed all of it."""
    opened = open_bundle(path)
    who = verify_signature(opened, read_trusted_keys(trusted))
    n_files = opened.check_files()
    out.print(f"{path} is signed by {who}; all {n_files} files are whole", markup=False)


@bundle.command()
def pack(
    path: _Folder,
    to: Annotated[Path, typer.Option("--out", help="The tar to write, e.g. bundle.tar.", metavar="TAR")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the tar if it is there.")] = False,
) -> None:
    """Write a bundle as one file."""
    n_bytes = pack_file(open_bundle(path), to, replace=replace)
    out.print(f"{to}: {n_bytes / 1e6:.2f} MB", markup=False)


@bundle.command("unpack")
def unpack_tar(
    tar: Annotated[Path, typer.Argument(help="A tar that pack wrote.", metavar="TAR")],
    to: Annotated[Path, typer.Option("--out", help="The new folder; it must not exist.", metavar="BUNDLE")],
) -> None:
    """Unpack such a file, and check all of it."""
    try:
        stream = tar.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {tar}", found=error.strerror) from error
    with stream:
        unpack(stream, to)
    try:
        opened = open_bundle(to)
        n_files = opened.check_files()
    except BaseException:
        shutil.rmtree(to)
        raise
    out.print(f"{to}: {opened.bundle_id}, {n_files} files", markup=False)


def _stand_in() -> None:
    """Never runs: the group puts the workbench's command in its place."""


for _name, _verb in WORKBENCH_VERBS.items():
    bundle.command(_name, help=_verb.help)(_stand_in)
