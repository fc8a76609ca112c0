"""Units for systemd: one for each of the daemon's processes, made for this machine and a configuration."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from edge_mer.config import UNIX, DaemonConfig, host_and_port
from edge_mer.errors import UsageError

UNIT_FOLDER = Path("/etc/systemd/system")
INFERENCE_UNIT = "edge-mer.service"
GATEWAY_UNIT = "edge-mer-gateway.service"
USER = "edge-mer"

DEVICE_GROUPS = ("video", "render", "audio", "dialout", "i2c", "gpio")
"""Groups that own sensors and GPUs on Debian, Ubuntu and JetPack; a unit names those that exist."""

DEVICE_CLASSES = ("video4linux", "media", "alsa", "ttyUSB", "ttyACM", "usb_device", "drm", "nv*", "host1x*")
"""As /proc/devices calls them: also what is plugged in later."""

DEVICE_NODES = ("nvidia*", "nvidia-caps/*", "nvmap", "nvhost-*", "nvgpu/*/*", "nvsciipc", "dri/*")
"""Below /dev: GPUs whose class has no name of its own, as on a Jetson."""

_HERE = Path(__file__).parent
_MARK = "# made by edge-mer daemon --install; sha256 of what follows: "
_FIRST_FREE_PORT = 1024


@dataclass(frozen=True)
class Installation:
    """What units are made for.

    Attributes:
        config: The configuration's file, absolute.
        executable: The command `edge-mer`, absolute.
        user: Whom inference runs as; must exist when it is started.
        group: Who may use the link; the gateway gets it too.
        groups: Further groups of that user, for devices; each must exist.
        devices: Nodes below /dev, beside the classes of `DEVICE_CLASSES`.
        writable: Folders that inference writes to, beside its own ones.
        with_gateway: Whether anybody is to be spoken to.
        low_ports: Whether the gateway listens at a port below 1024.
    """

    config: Path
    executable: Path
    user: str = USER
    group: str = USER
    groups: tuple[str, ...] = ()
    devices: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    with_gateway: bool = True
    low_ports: bool = False


def installation_here(
    path: Path, config: DaemonConfig, executable: Path, user: str = USER, dev: Path = Path("/dev")
) -> Installation:
    """An installation for this machine, with the groups and devices that it has.

    Args:
        path: The configuration's file.
        config: What it says.
        executable: The command `edge-mer`.
        user: Whom inference runs as.
        dev: Where devices are.

    Raises:
        UsageError: The gateway would have to write where it may not.
    """
    listens = config.http.listen
    for place in listens:
        if place.startswith(UNIX) and Path(place.removeprefix(UNIX)).parent == config.run_dir:
            raise UsageError(
                f"the gateway may not write into {config.run_dir}, where {place} would be",
                hint="listen at unix:/run/edge-mer-gateway/http.sock",
            )
    return Installation(
        config=path.absolute(),
        executable=executable.absolute(),
        user=user,
        group=_group_of(user),
        groups=tuple(name for name in DEVICE_GROUPS if _exists(name)),
        devices=_nodes(dev),
        writable=_writable(config),
        with_gateway=bool(listens or config.network_sinks),
        low_ports=any(
            host_and_port(place)[1] < _FIRST_FREE_PORT for place in listens if not place.startswith(UNIX)
        ),
    )


def this_command() -> Path:
    """The command `edge-mer` of the environment that runs now.

    Raises:
        UsageError: There is none beside the interpreter.
    """
    command = Path(sys.executable).with_name("edge-mer")
    if not os.access(command, os.X_OK):
        raise UsageError(
            "a service needs the command edge-mer", expected=str(command), hint="pip install edge-mer"
        )
    return command


def _group_of(user: str) -> str:
    """The user's own group; of one who is yet to be made, the group of the same name."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def _exists(group: str) -> bool:
    try:
        grp.getgrnam(group)
    except KeyError:
        return False
    return True


def _nodes(dev: Path) -> tuple[Path, ...]:
    found = {path for pattern in DEVICE_NODES for path in dev.glob(pattern)}
    return tuple(sorted(path for path in found if path.is_char_device()))


def _writable(config: DaemonConfig) -> tuple[Path, ...]:
    """Folders outside systemd's own; relative files lie in the state's folder, where the service runs."""
    targets = [uri.partition(":")[2] for uri in config.file_sinks]
    files = [Path(target.partition("?")[0]) for target in targets]
    files += [] if config.record is None else [config.record.file]
    folders = {file.parent for file in files if file.is_absolute()}
    folders |= {folder for folder in (config.state_dir, config.run_dir) if folder.name != "edge-mer"}
    return tuple(sorted(folders))


def units(installation: Installation) -> dict[str, str]:
    """File name -> text of each unit.

    Raises:
        UsageError: A path or a name that cannot stand in a unit.
    """
    for name in (installation.user, installation.group, *installation.groups):
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_-]{0,30}", name):
            raise UsageError(f"{name!r} is no name of a user or group")
    templates = jinja2.Environment(  # noqa: S701  units are no HTML; paths are quoted one by one
        loader=jinja2.FileSystemLoader(_HERE), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    templates.filters |= {"command": _command, "argument": _argument, "word": _word, "escaped": _escaped}
    known = {
        **vars(installation),
        "device_classes": DEVICE_CLASSES,
        "protect_home": _protect_home(installation),
    }
    names = (INFERENCE_UNIT, GATEWAY_UNIT) if installation.with_gateway else (INFERENCE_UNIT,)
    return {name: _marked(templates.get_template(f"{name}.jinja").render(known)) for name in names}


def _protect_home(installation: Installation) -> str:
    """Homes are hidden, unless something of edge-mer lies there."""
    used = (installation.config, installation.executable, *installation.writable)
    homes = ("/home", "/root", "/run/user")
    return "read-only" if any(path.is_relative_to(home) for path in used for home in homes) else "yes"


def _escaped(path: Path) -> str:
    """A path with systemd's specifiers escaped, for settings that hold nothing else.

    Raises:
        UsageError: It has characters that no setting can hold.
    """
    text = str(path)
    if not text.isprintable():
        raise UsageError(f"{text!r} cannot stand in a unit", expected="a path of printable characters")
    return text.replace("%", "%%")


def _word(path: Path) -> str:
    """A path as one of several in a setting."""
    text = _escaped(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _argument(path: Path) -> str:
    """A path as an argument of a command, where systemd puts in variables."""
    return _word(path).replace("$", "$$")


def _command(path: Path) -> str:
    """A path as the command itself, which systemd wants plain."""
    if set(str(path)) & set("\"'\\"):
        raise UsageError(
            f"systemd starts no command called {path}",
            expected="no quotes and no backslash in it",
            hint="install edge-mer in another folder",
        )
    return _word(path)


def _marked(text: str) -> str:
    return f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _is_as_made(text: str) -> bool:
    first, _, rest = text.partition("\n")
    return first.startswith(_MARK) and _marked(rest) == text


def install(made: Mapping[str, str], folder: Path = UNIT_FOLDER, *, force: bool = False) -> list[Path]:
    """Write units, once all of them may be written; systemd itself is not told.

    Args:
        made: What `units` made.
        folder: Where systemd looks.
        force: Whether a unit that somebody edited may be replaced.

    Returns:
        The files.

    Raises:
        UsageError: One was edited, or the folder cannot be written to.
    """
    for name in made:
        if not force and not _may_be_replaced(folder / name):
            raise UsageError(
                f"{folder / name} was edited",
                expected="what edge-mer wrote",
                hint=f"keep changes apart (systemctl edit {name}), or add --force to replace it",
            )
    written: list[tuple[Path, Path]] = []
    try:
        for name, text in made.items():
            written.append((_beside(folder / name, text), folder / name))
        for temporary, path in written:
            temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder}", found=error.strerror, hint="run it as root: sudo"
        ) from error
    finally:
        for temporary, _ in written:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return [path for _, path in written]


def _may_be_replaced(path: Path) -> bool:
    try:
        return _is_as_made(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return not os.path.lexists(path)
    except (OSError, UnicodeDecodeError):
        return False


def _beside(path: Path, text: str) -> Path:
    """The text in a file beside, on disk."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(number, 0o644)
            os.fsync(number)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def next_commands(installation: Installation, made: Sequence[str]) -> list[str]:
    """What is left to type, as root, once units are written."""
    user, commands = installation.user, []
    if not _has_user(user):
        commands.append(f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {user}")
    config = shlex.quote(str(installation.config))
    return [
        *commands,
        "systemctl daemon-reload",
        f"systemctl enable --now {' '.join(made)}",
        f"systemctl status {' '.join(made)}",
        f"systemctl reload {INFERENCE_UNIT}   # after {config} was changed",
    ]


def _has_user(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
