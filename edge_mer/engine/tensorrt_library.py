"""TensorRT as it is here: found or not, its version, and what it says while it works.

`tensorrt` is imported where it is used, never when a module is read: a device without it uses its processor.
What a version can do is looked for by its name; the number counts only where the meaning of a flag changed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from edge_mer.errors import MissingError

if TYPE_CHECKING:
    import tensorrt as trt

_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file")
_N_KEPT = 200


def require_tensorrt() -> str:
    """TensorRT's version.

    Raises:
        MissingError: It is not installed, or one of its libraries is not.
    """
    try:
        import tensorrt as trt
    except ImportError as error:
        raise _missing(error) from error
    return str(getattr(trt, "__version__"))  # noqa: B009 -- the bindings, which types come from, lack it


def _missing(error: ImportError) -> MissingError:
    text = str(error)
    if found := _MISSING_LIBRARY.search(text):
        return MissingError(
            "TensorRT cannot be loaded",
            expected=f"the library {found.group(1)}",
            found=text,
            hint="run edge-mer doctor: it names the package that holds it",
        )
    return MissingError(
        "TensorRT is not installed for this Python",
        found=text,
        hint="on a Jetson make the environment with --system-site-packages; elsewhere pip install "
        "'edge-mer[tensorrt]'; edge-mer doctor tells which",
    )


def make_log() -> Any:
    """A logger that keeps what TensorRT said: `log.errors` and `log.warnings`, the newest last.

    Its class is TensorRT's own, so it can only be made where TensorRT is.
    """
    import tensorrt as trt

    class Log(trt.ILogger):
        """Keeps warnings and errors, at most `_N_KEPT` of each."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                kept = self.errors
            elif severity == trt.ILogger.WARNING:
                kept = self.warnings
            else:
                return
            kept.append(msg.strip())
            del kept[:-_N_KEPT]

        def last_error(self) -> str:
            """The newest error, or that there was none."""
            return self.errors[-1] if self.errors else "TensorRT gave no reason"

    return Log()


def major_version() -> int:
    """10 or 11: the meaning of the bit that asks for strong types changed between them."""
    return int(require_tensorrt().split(".", 1)[0])
