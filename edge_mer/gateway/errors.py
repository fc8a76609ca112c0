"""What is told to a client when something cannot be done, and with which status."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from edge_mer.errors import EdgeMerError

_STATUS = {2: 400, 3: 422, 4: 422, 5: 503}
"""Of an error of edge-mer, by its exit code."""


class ApiError(HTTPException):
    """An answer that says what failed, what was expected and found, and what to do next.

    Args:
        status: Of HTTP.
        what: One sentence: what failed.
        expected: What would have been right.
        found: What was there instead.
        hint: The next thing to try.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, what, dict(headers or {}))
        self.body = error_body(what, expected, found, hint)


def error_body(
    what: str, expected: str | None = None, found: str | None = None, hint: str | None = None
) -> dict[str, Any]:
    """The one shape of every error."""
    return {"error": {"what": what, "expected": expected, "found": found, "hint": hint}}


def api_error(error: EdgeMerError) -> ApiError:
    """An error of edge-mer as an answer."""
    status = _STATUS.get(error.exit_code, 500)
    return ApiError(
        status,
        error.what,
        expected=error.expected,
        found=error.found,
        hint=error.hint,
        headers={"retry-after": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None,
    )
