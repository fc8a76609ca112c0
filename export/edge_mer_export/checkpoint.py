"""Import of trained weights: every key finds its place in a stage, or is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_mer.errors import DataError, UsageError
from edge_mer_export.models.zoo import Found, LooseStage, Part, Route, States, System, ZooModel, dead_pattern
from edge_mer_export.recognise import Kind, recognise
from edge_mer_export.weight_files import WeightFile, read_bytes, read_weights, shape_of


@dataclass(frozen=True)
class CheckpointFile:
    """One file that weights came from.

    Attributes:
        name: File name.
        sha256: Hash of its bytes.
        n_params: Trainable numbers in it.
        n_params_dead: Those of them that reach no output and were dropped.
        dropped: Patterns of the dropped keys.
    """

    name: str
    sha256: str
    n_params: int
    n_params_dead: int
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointReport:
    """What an import read.

    Attributes:
        files: The files, in the order in which they were given.
    """

    files: tuple[CheckpointFile, ...]

    @property
    def n_params(self) -> int:
        """Trainable numbers in all files."""
        return sum(file.n_params for file in self.files)

    @property
    def n_params_dead(self) -> int:
        """Those of them that reach no output and were dropped."""
        return sum(file.n_params_dead for file in self.files)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Patterns of the dropped keys."""
        return tuple(pattern for file in self.files for pattern in file.dropped)

    @property
    def sha256(self) -> dict[str, str]:
        """Hash by file name."""
        return {file.name: file.sha256 for file in self.files}


@dataclass(frozen=True)
class Imported:
    """A model with its weights.

    Attributes:
        model: In evaluation mode; of an import of one stage, only that stage has weights.
        report: What was read.
    """

    model: ZooModel
    report: CheckpointReport


def import_model(
    system: System, given: Iterable[str | Path], settings: Sequence[str] = (), only: str | None = None
) -> Imported:
    """Read trained weights, find the variant that they belong to, and build it.

    Args:
        system: What the weights are of.
        given: "part=path" for each file, or a path alone: a .safetensors file with keys
            "<stage>.<key>", the folder of the published code's own files, or a file whose keys tell
            which part it is.
        settings: "name=value" of what shapes cannot tell.
        only: The one stage that is wanted; None wants all.

    Raises:
        UsageError: No such part, setting or stage.
        DataError: A file is absent, too large, unreadable or unsafe, or does not fit; the message then
            lists every key that is missing, unexpected, misshapen or not finite.
    """
    values = system.read_settings(settings)
    files = [file for one in given for file in _files(system, str(one))]
    _check_parts(system, files)
    matching = _Matching(files)
    states = system.adapt(matching.states)
    shapes = {stage: {key: _shape(value) for key, value in state.items()} for stage, state in states.items()}
    assets = {file.part.name: read_bytes(file.path) for file in files if file.part.is_asset}
    model, wanted = _build(system, Found(shapes, values, assets, only))
    lacking = [one.of for one in wanted if not (states.get(one.of) or one.prefix) and one.module.state_dict()]
    matching.demand(system, lacking)
    for one in wanted:
        matching.fit(system, one, states.get(one.of, {}))
    matching.refuse_misfits(system)
    if only is None:
        model.check_sizes()
    return Imported(model.eval(), CheckpointReport(matching.reports()))


def _build(system: System, found: Found) -> tuple[ZooModel, list[LooseStage]]:
    """The variant, and the stages of it that are to take weights."""
    if found.only is None:
        model = system.build(found)
        return model, [model.bundle_stage(name) for name in model.spec.stages]
    with torch.device("meta"):  # the other stages, without weights, take neither time nor memory
        model = system.build(found)
    stage = model.stage(found.only)
    held = (*stage.module.parameters(), *stage.module.buffers())
    if not any(one.is_meta for one in held):
        return model, [stage]
    n_held = sum(one.numel() for one in held)
    if sum(value.numel() for value in stage.module.state_dict().values()) != n_held:
        raise ValueError(f"{system.name}.{found.only} has a buffer that no checkpoint fills")
    stage.module.to_empty(device="cpu")
    return model, [stage]


# -- files and what they are ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file as a part of the system; `weights` is None for an asset."""

    part: Part
    path: Path
    weights: WeightFile | None


def _files(system: System, given: str) -> list[_File]:
    """The file or the files that one word of a user names."""
    name, equals, text = given.partition("=")
    if equals and not _exists(Path(given)):
        return [_open(system, system.part(name), Path(text))]
    path = Path(given)
    if not _exists(path):
        raise DataError(f"cannot read weights from {path}", expected=_layout(system), found="no such file")
    return _files_of_folder(system, path) if path.is_dir() else [_by_content(system, path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise DataError(
            f"cannot read {path}",
            found=error.strerror or str(error),
            hint="check the path and its permissions",
        ) from error


def _open(system: System, part: Part, path: Path) -> _File:
    if not _exists(path) or path.is_dir():
        found = "a folder" if _exists(path) else "no such file"
        raise DataError(
            f"cannot read {path}", expected=f"a file for part {part.name}: {part.about}", found=found
        )
    return _File(part, path, None if part.is_asset else _read(system, path))


def _read(system: System, path: Path) -> WeightFile:
    return read_weights(path, published=system.is_published)


def _layout(system: System) -> str:
    """What a checkpoint of a system may be, in words."""
    own = "a .safetensors file that edge-mer train wrote"
    if not system.parts:
        return own
    if not system.is_published:  # a user's own model
        assets = [f", and {_option(part)}: {part.about}" for part in system.parts if part.is_asset]
        return f"a file with {system.parts[0].about}, as torch.save or safetensors write it{''.join(assets)}"
    named = [f"{part.name}={part.file or 'FILE'}" for part in system.parts]
    return f"{own}, a folder with the published files, or {', '.join(named)}"


def _files_of_folder(system: System, folder: Path) -> list[_File]:
    """Every part whose published name lies in a folder."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(f"cannot read folder {folder}", found=error.strerror or str(error)) from error
    files = []
    for part in system.parts:
        matching = [name for name in names if part.file and fnmatchcase(name, part.file)]
        if len(matching) > 1:
            raise UsageError(
                f"folder {folder} has {len(matching)} files for part {part.name}: {', '.join(matching)}",
                expected=f"one, or --checkpoint {part.name}=FILE",
            )
        files += [_open(system, part, folder / name) for name in matching]
    if not files:
        raise DataError(
            f"folder {folder} has no file of model {system.name}",
            expected=_layout(system),
            found=", ".join(names) or "no file at all",
        )
    return files


def _by_content(system: System, path: Path) -> _File:
    """A file given without the name of its part: one of edge-mer's own, or as its keys tell."""
    weights = _read(system, path)
    if system.parts and not system.is_published:
        return _File(system.parts[0], path, weights)
    own = Part("weights", "", "", routes=tuple(Route(f"{stage}.", stage) for stage in system.stages))
    if path.suffix == ".safetensors" and (not system.parts or any(map(own.route, weights.values))):
        return _File(own, path, weights)
    kind = recognise(weights.values)
    parts = [] if kind is None else _parts_of(system, kind)
    if len(parts) == 1:
        return _File(parts[0], path, weights)
    if kind is not None and parts:
        raise UsageError(
            f"{path} may be several parts of model {system.name}",
            expected=" or ".join(f"--checkpoint {part.name}={path}" for part in parts),
            found=kind.what,
        )
    raise DataError(
        f"{path} is no checkpoint of model {system.name}",
        expected=_layout(system),
        found="keys of nothing known" if kind is None else kind.what,
        hint=_command(system, kind, path),
    )


def _parts_of(system: System, kind: Kind) -> list[Part]:
    """The parts of a system that a file may be; those that it is foremost, where there are any."""
    possible = [part for part in system.parts if kind.name in part.kinds]
    return [part for part in possible if part.kinds[0] == kind.name] or possible


def _command(system: System, kind: Kind | None, path: Path) -> str | None:
    """How a file is imported, in this system where it has a place there."""
    if kind is None:
        return None
    use = kind.use.replace("FILE", str(path))
    if parts := _parts_of(system, kind):
        use = f"{system.name} " + " or ".join(f"--checkpoint {part.name}={path}" for part in parts)
    return f"edge-mer export {use}"


def _check_parts(system: System, files: list[_File]) -> None:
    """Each part once, and each file what its name says."""
    names = [file.part.name for file in files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"part {twice} of model {system.name} was given twice", expected="each part once")
    for file in files:
        if file.weights is None or not file.part.kinds:
            continue
        kind = recognise(file.weights.values)
        if kind is not None and kind.name not in file.part.kinds:
            raise DataError(
                f"{file.path} is not part {file.part.name} of model {system.name}",
                expected=file.part.about,
                found=kind.what,
                hint=_command(system, kind, file.path),
            )


# -- keys and where they belong ------------------------------------------------------------------------


def _option(part: Part) -> str:
    """How a part is given."""
    return f"--checkpoint {part.name}={part.file or 'FILE'}"


def _parts_with(system: System, stage: str) -> list[Part]:
    """The parts that hold a stage's weights; those that complete others are left out."""
    parts = [part for part in system.parts if any(route.stage == stage for route in part.routes)]
    return [part for part in parts if part.kinds and part.kinds[0] != "intra-modal"] or parts


_N_KEYS_SHOWN = 3


def _contents(system: System, file: _File) -> str:
    """A file and, where nothing else tells what it holds, its first keys."""
    if system.is_published or file.weights is None:
        return str(file.path)
    keys = list(file.weights.values)
    more = ", …" if len(keys) > _N_KEYS_SHOWN else ""
    return f"{file.path} with {', '.join(map(repr, keys[:_N_KEYS_SHOWN])) or 'no key'}{more}"


@dataclass(frozen=True)
class _Origin:
    """Where a tensor of a stage comes from."""

    tally: _Tally
    route: Route
    key: str

    @property
    def stage_key(self) -> str:
        """Its key in the stage."""
        return self.route.to + self.key.removeprefix(self.route.prefix)

    def in_file(self, stage_key: str) -> str:
        """Another key, or a pattern of keys, of the stage as this file would name it."""
        return self.route.prefix + stage_key.removeprefix(self.route.to)


@dataclass
class _Tally:
    """What became of one file's numbers."""

    file: WeightFile
    n_dead: int = 0
    dropped: dict[str, None] = field(default_factory=dict)

    def drop(self, key: str, pattern: str) -> None:
        self.n_dead += self.file.n_params[key]
        self.dropped[pattern] = None


class _Matching:
    """Sorts the keys of all files into stages, and notes what does not fit."""

    def __init__(self, files: list[_File]) -> None:
        self.states: States = defaultdict(dict)
        self.problems: list[str] = []
        self._files = files
        self._origin: dict[tuple[str, str], _Origin] = {}
        self._tallies = [self._sort(file.part, file.weights) for file in files if file.weights is not None]

    def _sort(self, part: Part, weights: WeightFile) -> _Tally:
        tally = _Tally(weights)
        for key, value in weights.values.items():
            route = part.route(key)
            if route is None:
                self._surplus(weights.name, key, value)
            elif route.stage is None:
                tally.drop(key, f"{route.prefix}*")
            else:
                self._place(_Origin(tally, route, key), route.stage, value)
        return tally

    def _place(self, origin: _Origin, stage: str, value: Any) -> None:
        key = origin.stage_key
        if (stage, key) in self._origin:
            other = self._origin[stage, key]
            name, other_name = origin.tally.file.name, other.tally.file.name
            if origin.tally is other.tally:
                self._note(f"{name}: {origin.key}: {other.key} stands for the same weights")
            else:
                self._note(f"{name}: weights of {stage} that {other_name} holds too: leave one of them away")
        self._origin[stage, key] = origin
        self.states[stage][key] = value

    def _surplus(self, name: str, key: str, value: Any) -> None:
        self.problems.append(f"{name}: {key!r}: expected no such key, found {shape_of(value)}")

    def demand(self, system: System, lacking: list[str]) -> None:
        """Refuse stages for which there is nothing at all."""
        if not lacking:
            return
        ways = [f"for {stage}: {' or '.join(map(_option, _parts_with(system, stage)))}" for stage in lacking]
        if not system.is_published:
            ways = [f"give one file with all stages: {', '.join(system.stages)}"]
        raise DataError(
            f"model {system.name} lacks weights of {' and '.join(lacking)}",
            expected=_layout(system),
            found=", ".join(_contents(system, file) for file in self._files) or "no file",
            hint="; ".join(ways),
        )

    def fit(self, system: System, stage: LooseStage, state: dict[str, Any]) -> None:
        """Load what fits into a stage; note what is missing, one too many or of another shape."""
        loaded: dict[str, Tensor] = {}
        own = {stage.prefix + key: value for key, value in stage.module.state_dict().items()}
        for key, want in own.items():
            # an absent count of training batches keeps the model's own: no output depends on it
            default = torch.zeros_like(want) if key.endswith("num_batches_tracked") else None
            value: Any = state.get(key, default)
            problem = _problem(value, want)
            if problem is None:
                loaded[key.removeprefix(stage.prefix)] = value.to(want.dtype)
            elif value is None and (absent := self._absent_part(system, stage.of, key)):
                self._note(f"{absent.about}: expected {_option(absent)}, found nothing")
            else:
                name, file_key = self._named(stage.of, key)
                self.problems.append(f"{name}: {file_key}: expected {shape_of(want)}, found {problem}")
        for key in sorted(state.keys() - own.keys()):
            if key.startswith(stage.prefix):
                self._drop(stage, key, state[key])
        if not self.problems:
            stage.module.load_state_dict(loaded)

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _absent_part(self, system: System, stage: str, key: str) -> Part | None:
        """The part that would hold a missing key, where no given file holds the like."""
        if any(of == stage and key.startswith(o.route.to) for (of, _), o in self._origin.items()):
            return None
        for part in system.parts:
            if any(route.stage == stage and key.startswith(route.to) for route in part.routes):
                return part
        return None

    def _drop(self, stage: LooseStage, key: str, value: Any) -> None:
        origin = self._origin.get((stage.of, key))
        pattern = dead_pattern(key, stage.dead)
        if pattern is None or origin is None:
            self._surplus(*self._named(stage.of, key), value)
        else:
            origin.tally.drop(origin.key, origin.in_file(pattern))

    def _named(self, stage: str, key: str) -> tuple[str, str]:
        """File and key as the user knows them; of a missing key, as its neighbours are named."""
        origin = self._origin.get((stage, key))
        if origin is not None:
            return origin.tally.file.name, origin.key
        for (of, other), origin in self._origin.items():
            if of == stage and key.startswith(origin.route.to) and other.startswith(origin.route.to):
                return origin.tally.file.name, origin.in_file(key)
        return stage, key

    def refuse_misfits(self, system: System) -> None:
        """Name everything that did not fit."""
        if self.problems:
            paths = ", ".join(str(file.path) for file in self._files)
            count = f"problems: {len(self.problems)}"
            listed = "".join(f"\n  {problem}" for problem in self.problems)
            raise DataError(
                f"checkpoint {paths} does not fit model {system.name}; {count}{listed}",
                hint="check that the checkpoint was trained with this architecture and these sizes",
            )

    def reports(self) -> tuple[CheckpointFile, ...]:
        """What was read of each file."""
        return tuple(
            CheckpointFile(
                one.file.name,
                one.file.sha256,
                sum(one.file.n_params.values()),
                one.n_dead,
                tuple(one.dropped),
            )
            for one in self._tallies
        )


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _problem(value: Any, want: Tensor) -> str | None:
    """What is wrong with `value` where a tensor like `want` belongs; None if nothing is."""
    if value is None:
        return "nothing"
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        return shape_of(value)
    if value.shape != want.shape or _kind(value) != _kind(want):
        return shape_of(value)
    value = value.to(want.dtype)
    # a mask of -inf is what the model itself makes
    n_bad = int((~torch.isfinite(value) & (value != want)).sum())
    return f"{n_bad} of {value.numel()} numbers NaN, infinite or beyond float32" if n_bad else None


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()
