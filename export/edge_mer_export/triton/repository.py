"""Writes a bundle as a model repository, which appears under its name once it is whole and was checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_mer.bundle.read import Bundle
from edge_mer.errors import UsageError
from edge_mer.files import write_folder
from edge_mer.runtime.target import Say
from edge_mer.runtime.target_tensorrt import stage_tensors
from edge_mer_export.triton.check import check_repository
from edge_mer_export.triton.configs import Config, labels, stage_config, stream_config, written
from edge_mer_export.triton.names import CONFIG, STREAM, VERSION, warm_up_file
from edge_mer_export.triton.options import Options
from edge_mer_export.triton.readme import readme
from edge_mer_export.triton.stages import StageFile, stage_files
from edge_mer_export.triton.warm_up import golden_inputs, raw

README = "README.md"
_N_PARTS = 4


@dataclass(frozen=True)
class Written:
    """A repository as it was written.

    Attributes:
        folder: Where it lies.
        models: Names of its models, encoders first and the streaming one last.
        n_bytes: Of all files.
        n_checks: What was held against the bundle and the files.
    """

    folder: Path
    models: tuple[str, ...]
    n_bytes: int
    n_checks: int


def write_repository(
    bundle: Bundle, folder: Path, options: Options, *, replace: bool = False, say: Say | None = None
) -> Written:
    """Write a model repository, and check it before it gets its name.

    Args:
        bundle: What is to be served.
        folder: The repository; its parent folder is there.
        options: What is to run it, and how.
        replace: Whether a repository of that name may be replaced.
        say: Told what is being done.

    Raises:
        UsageError: The place is taken, or the bundle has nothing that runs on what was asked for.
        MissingError: No plans were built here, or a library is not installed.
        BundleError: The bundle is broken, or the repository does not fit it.
    """
    check_free(folder, replace=replace)
    tell = say or _quiet
    tell("reading the stages", 0, _N_PARTS)
    stages = stage_files(bundle, options)
    tell("configuring them", 1, _N_PARTS)
    configs, files = _configured(bundle, stages, options)
    files[README] = readme(bundle, stages, configs, options).encode()
    n_checks = 0

    def check(written_to: Path) -> None:
        nonlocal n_checks
        tell("checking what was written", 3, _N_PARTS)
        n_checks = check_repository(bundle, written_to)

    tell("writing", 2, _N_PARTS)
    try:
        write_folder(folder, files, check)
    except OSError as error:
        raise UsageError(f"cannot write {folder}", found=error.strerror or str(error)) from error
    names = tuple(config.name for config in configs.values())
    return Written(folder, names, sum(map(len, files.values())), n_checks)


def _quiet(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""


def check_free(folder: Path, *, replace: bool) -> None:
    """Refuse early to write over something that is no such repository, or one when not asked to.

    Raises:
        UsageError: The place is taken, or its parent folder is missing.
    """
    if not folder.parent.is_dir():
        raise UsageError(f"cannot write {folder}", found=f"no folder {folder.parent}", hint="create it first")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.exists() and not folder.is_symlink():
        return
    is_ours = folder.is_dir() and not folder.is_symlink() and any(folder.glob(f"*_{STREAM}/{CONFIG}"))
    if not (replace and is_ours):
        other = " or add --replace" if is_ours else "; it is no repository of a bundle, so it is not replaced"
        raise UsageError(f"{folder} exists already", hint=f"give another --out{other}")


def _configured(
    bundle: Bundle, stages: dict[str, StageFile], options: Options
) -> tuple[dict[str, Config], dict[str, bytes]]:
    """Stage -> configuration, and path -> content of every model's files."""
    model = bundle.manifest.model
    golden, named = golden_inputs(bundle), labels(bundle)
    configs, files = {}, {}
    for stage, file in stages.items():
        if stage == STREAM:
            config = stream_config(bundle, file, options)
        else:
            config = stage_config(bundle, stage, file, options, golden[stage])
            for spec in stage_tensors(model)[stage][0]:
                values = raw(golden[stage][spec.name], spec.dtype)
                files[f"{config.name}/warmup/{warm_up_file(spec.name)}"] = values
        configs[stage] = config
        files[f"{config.name}/{CONFIG}"] = written(config).encode()
        files[f"{config.name}/{VERSION}/{file.file_name}"] = file.data
        for output in config.output:
            if output.label_filename:
                lines = "".join(f"{label}\n" for label in named[output.name])
                files[f"{config.name}/{output.label_filename}"] = lines.encode()
    return configs, files
