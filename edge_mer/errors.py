"""Every error that edge-mer raises on purpose, and the exit code each one means.

    EdgeMerError
    ├── UsageError            exit 2   a command, URI or configuration that cannot be carried out
    ├── DataError             exit 3   a recording, stream or window that cannot be used
    │   └── SpecMismatchError          a stream that does not fit what the model declares
    ├── BundleError           exit 3   a bundle that is broken, altered or not trusted
    ├── ParityError           exit 4   a proof failed: numbers differ from what they must be
    └── MissingError          exit 5   hardware, an engine or an optional package is absent
        ├── LostError                  a sensor that was there is gone, or gives nothing any more
        └── AwayError                  an inference server is gone, or does not answer as it should

A message says what failed, what was expected and found, and what to do next.
"""

from __future__ import annotations


class EdgeMerError(Exception):
    """What failed, with optional `expected`, `found` and `hint` (what to do next).

    Args:
        what: One sentence: what failed, and on which file, stream or tensor.
        expected: What would have been right.
        found: What was there instead.
        hint: The next thing to try.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(self._text())

    def _text(self) -> str:
        text = self.what.rstrip(".") + "."
        if self.expected is not None:
            text += f" Expected: {self.expected.rstrip('.')}."
        if self.found is not None:
            text += f" Found: {self.found.rstrip('.')}."
        if self.hint is not None:
            text += f" Next: {self.hint.rstrip('.')}{'' if self.hint.endswith('?') else '.'}"
        return text


class UsageError(EdgeMerError):
    """A command, URI or configuration that cannot be carried out."""

    exit_code = 2


class DataError(EdgeMerError):
    """A recording, stream or window that cannot be used."""

    exit_code = 3


class SpecMismatchError(DataError):
    """A stream whose unit, rate or channels do not fit what the model declares."""


class BundleError(EdgeMerError):
    """A bundle that is broken, altered or not trusted."""

    exit_code = 3


class ParityError(EdgeMerError):
    """A proof failed: numbers differ from what they must be."""

    exit_code = 4


class MissingError(EdgeMerError):
    """Hardware, an engine or an optional package is absent."""

    exit_code = 5


class AwayError(MissingError):
    """An inference server is gone, too slow, or does not answer as it should; it may be back later."""


class LostError(MissingError):
    """A sensor that was there is gone, or gives nothing any more; opening it again may help."""
