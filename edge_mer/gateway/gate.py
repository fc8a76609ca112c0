"""What every request passes before the application sees it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_mer.clock import Clock
from edge_mer.gateway.errors import ApiError
from edge_mer.gateway.limits import Buckets, Limits, peer_of

BUNDLE_PATH = "/v1/bundle"

_ALWAYS = {
    "content-security-policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_SAFE = ("GET", "HEAD", "OPTIONS")


class Gate:
    """Refuses requests by another name, from other pages, too many, or too large.

    Args:
        app: The application behind it.
        hosts: Names by which the gateway may be called, beside localhost and addresses.
        limits: Of requests and bodies.
        clock: What time it is.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], limits: Limits, clock: Clock) -> None:
        self._app, self._limits = app, limits
        self._hosts = {"localhost", *(host.lower().rstrip(".") for host in hosts)}
        self._requests = Buckets(limits.requests_per_s, limits.n_requests_at_once, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with what is wrong."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            bound = self._check(scope)
        except ApiError as error:
            await refuse(error, scope, receive, send_with_headers)
            return
        bounded = _bounded(receive, bound, self._limits.body_s) if scope["type"] == "http" else receive
        await self._app(scope, bounded, send_with_headers)

    def _check(self, scope: MutableMapping[str, Any]) -> int:
        """The largest body that it may have, in bytes.

        Raises:
            ApiError: It may not be carried out.
        """
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) + 4 for name, value in headers.raw) > self._limits.head_bytes:
            raise ApiError(
                431, "the request's head is too large", expected=f"at most {self._limits.head_bytes} bytes"
            )
        self._check_host(headers)
        client = scope.get("client")
        if not self._requests.take(peer_of(client[0] if client else None)):
            raise ApiError(
                429,
                "too many requests",
                expected=f"at most {self._limits.requests_per_s:g} per second",
                hint="listen at /v1/predictions instead of asking again and again",
                headers={"retry-after": "1"},
            )
        is_safe = scope["type"] == "http" and scope["method"] in _SAFE
        if not is_safe:
            _check_origin(headers)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        if is_safe and has_body:
            raise ApiError(400, f"a {scope['method']} request has no body", headers={"connection": "close"})
        bound = self._limits.bundle_bytes if scope["path"] == BUNDLE_PATH else self._limits.json_bytes
        if int(headers.get("content-length", "0")) > bound:
            raise _too_large(bound)
        return bound

    def _check_host(self, headers: Headers) -> None:
        """A page of another site can have its own name lead here; it cannot make the name one of ours."""
        named = headers.getlist("host")
        host = host_of(named[0]) if len(named) == 1 else ""
        if host not in self._hosts and not _is_address(host):
            raise ApiError(
                421,
                "this gateway is not called so",
                expected="its address, localhost, or a name that the configuration lists",
                found=f"Host: {', '.join(named)[:200]}" if named else "no Host",
                hint='add the name to hosts = ["…"] under [http]',
            )


def host_of(netloc: str) -> str:
    """A name or an address without its port and brackets, in small letters."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.rpartition(":")[0].lower().rstrip(".") if ":" in netloc else netloc.lower().rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_origin(headers: Headers) -> None:
    """Browsers say which page wants something to be done; it must be the gateway's own."""
    for origin in headers.getlist("origin"):
        if origin.partition("://")[2].lower() != headers["host"].lower():
            raise ApiError(
                403,
                "another page wants this",
                expected=f"the gateway's own page, at {headers['host'][:200]}",
                found=f"Origin: {origin[:200]}",
                hint="programs leave the Origin header out",
            )


def _too_large(bound: int) -> ApiError:
    return ApiError(
        413,
        "the request's body is too large",
        expected=f"at most {bound} bytes",
        headers={"connection": "close"},
    )


def _bounded(receive: Receive, bound: int, body_s: float) -> Receive:
    """What receives a body, and refuses one that is too large or does not come."""
    n_bytes, is_over = 0, False

    async def receive_bounded() -> Message:
        nonlocal n_bytes, is_over
        if is_over:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), body_s)
        except asyncio.TimeoutError:
            is_over = True
            raise ApiError(
                408,
                f"nothing more of the request's body came within {body_s:g} s",
                headers={"connection": "close"},
            ) from None
        n_bytes += len(message.get("body", b""))
        is_over = not message.get("more_body", False)
        if n_bytes > bound:
            raise _too_large(bound)
        return message

    return receive_bounded


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or what wanted to become a WebSocket, with what is wrong."""
    response = JSONResponse(error.body, error.status_code, error.headers)
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    await receive()
    # uvicorn counts the bytes itself
    headers = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
    start = {
        "type": "websocket.http.response.start",
        "status": response.status_code,
        "headers": headers,
    }
    await send(start)
    await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
