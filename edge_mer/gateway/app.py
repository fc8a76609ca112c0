"""The routes of the gateway; FastAPI reads their annotations as they are, so they are not put off."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, Path, Query, Request, Response, Security, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.websockets import WebSocketDisconnect

import edge_mer
from edge_mer.clock import Clock
from edge_mer.config import Right, TokenConfig
from edge_mer.errors import EdgeMerError
from edge_mer.gateway import shapes
from edge_mer.gateway.auth import LOCAL, SESSION_COOKIE, SESSION_S, Doorkeeper, Visitor
from edge_mer.gateway.bridge import Asks
from edge_mer.gateway.errors import ApiError, api_error, error_body
from edge_mer.gateway.feed import Feed, Subscription
from edge_mer.gateway.gate import BUNDLE_PATH, Gate, refuse
from edge_mer.gateway.limits import Buckets, Limits, peer_of
from edge_mer.gateway.live_page import PageFile, read_page
from edge_mer.gateway.metrics import CONTENT_TYPE, Metrics
from edge_mer.gateway.upload import MEDIA_TYPES, Uploads

_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": shapes.ErrorBody, "description": text}
    for status, text in {
        400: "what is asked for makes no sense",
        401: "a token is needed",
        403: "the token does not allow it, or another page asks",
        413: "the body is too large",
        421: "the gateway is not called so",
        422: "what came does not fit",
        429: "too many requests",
        503: "the inference process is not there",
    }.items()
}
_EVENTS = """\
Server-sent events, and over a WebSocket on the same path the same objects as text messages. First come what
runs, its health, its alarms and the newest prediction, then everything as it comes. Kinds of events:

- `prediction`: `{"kind": "prediction", "record": {…}}`
- `health`: `{"kind": "health", "health": {…}}`, once a second
- `alarms`: `{"kind": "alarms", "alarms": […]}`, when they change
- `model`: `{"kind": "model", "model": {…}}`, when another one runs
"""


@dataclass(frozen=True)
class Surroundings:
    """What the routes work with.

    Attributes:
        feed: What the process that infers says.
        asks: What it can be asked for.
        tokens: None at all: everybody may do everything.
        hosts: Names by which the gateway may be called, beside localhost and addresses.
        upload_dir: On whose disk a bundle lies until it is taken over.
        clock: What time it is.
        limits: Of requests and bodies.
        own_health: The gateway's own, as `GatewayShape` has it.
    """

    feed: Feed
    asks: Asks
    tokens: Sequence[TokenConfig]
    hosts: Iterable[str]
    upload_dir: FilePath
    clock: Clock
    limits: Limits
    own_health: Callable[[], Mapping[str, Any]]


def make_app(around: Surroundings) -> Gate:
    """The application, behind its gate."""
    return Gate(make_routes(around), hosts=around.hosts, limits=around.limits, clock=around.clock)


def make_routes(around: Surroundings) -> FastAPI:
    """The application alone; its `openapi()` is what `/openapi.json` says."""
    app = FastAPI(
        title="edge-mer",
        version=edge_mer.__version__,
        description="Predictions of a model of emotion or pain, live from a device.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=_ANSWERS,
    )
    visitors = _Visitors(around)
    _answer_errors(app)
    _read_routes(app, around, visitors)
    _stream_routes(app, around.feed, visitors)
    _alarm_routes(app, around, visitors)
    _bundle_routes(app, around, visitors)
    _login_routes(app, around, visitors)
    _open_routes(app, around)
    return app


class _Visitors:
    """Finds out who asks."""

    def __init__(self, around: Surroundings) -> None:
        self.doorkeeper = Doorkeeper(around.tokens, around.clock)
        self._asks = around.asks
        per_min = around.limits.logins_per_min
        self._failures = Buckets(per_min / 60, per_min, around.clock)

    def find(self, connection: HTTPConnection) -> Visitor:
        """Who asks, by token or session.

        Raises:
            ApiError: Nobody whom the gateway knows.
        """
        if self.doorkeeper.is_open:
            return LOCAL
        if (token := _bearer(connection)) is not None:
            return self.by_token(token, connection)
        visitor = self.doorkeeper.by_session(connection.cookies.get(SESSION_COOKIE, ""))
        if visitor is None:
            raise _unauthorised("a token is needed")
        return visitor

    def watch(self, connection: HTTPConnection) -> Callable[[], bool]:
        """What says whether a visitor may stay: a session ends, a token lasts as long as the gateway."""
        if self.doorkeeper.is_open or _bearer(connection) is not None:
            return lambda: True
        session_id = connection.cookies.get(SESSION_COOKIE, "")
        return lambda: self.doorkeeper.by_session(session_id) is not None

    def by_token(self, token: str, connection: HTTPConnection) -> Visitor:
        """Whose token it is; failures are counted, and written into the audit log.

        Raises:
            ApiError: Nobody's.
        """
        peer = peer_of(connection.client.host if connection.client else None)
        if self._failures.left(peer) < 1:
            raise ApiError(429, "too many wrong tokens", hint="wait a minute", headers={"retry-after": "60"})
        visitor = self.doorkeeper.by_token(token)
        if visitor is None:
            self._failures.take(peer)
            self._asks.audit("login_failed", "", peer=peer)
            raise _unauthorised("nobody has this token")
        return visitor

    def who_may(self, right: Right) -> Callable[..., Visitor]:
        """What FastAPI calls to find a visitor who has a right."""

        def find(
            connection: HTTPConnection,
            _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None,
            _cookie: Annotated[str | None, Security(_COOKIE)] = None,
        ) -> Visitor:
            visitor = self.find(connection)
            if right not in visitor.may:
                raise ApiError(
                    403,
                    f"{visitor.name} may not do this",
                    expected=f"the right {right!r}",
                    found=", ".join(sorted(visitor.may)) or "no right at all",
                    hint=f'add "{right}" to the token\'s may = […] under [[http.tokens]]',
                )
            return visitor

        return find


_BEARER = HTTPBearer(auto_error=False, description="A token of the configuration")
_COOKIE = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, description="The page's, after /v1/login")


def _bearer(connection: HTTPConnection) -> str | None:
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _unauthorised(what: str) -> ApiError:
    return ApiError(
        401,
        what,
        expected="Authorization: Bearer TOKEN, or a session",
        hint="ask whoever configured the device for a token",
        headers={"www-authenticate": "Bearer"},
    )


def _missing(what: str) -> ApiError:
    return ApiError(503, what, hint="try again in a moment", headers={"retry-after": "1"})


# --- errors --------------------------------------------------------------------------------------


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status_code, error.headers)

    @app.exception_handler(EdgeMerError)
    async def ours(request: Request, error: EdgeMerError) -> Response:
        return await api(request, api_error(error))

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        body = error_body(
            f"the request does not fit at {where}", found=first["msg"], hint="see /openapi.json"
        )
        return JSONResponse(body, 422)

    @app.exception_handler(HTTPException)
    async def general(request: Request, error: HTTPException) -> Response:
        what = {404: "there is nothing here", 405: "this cannot be done here"}.get(
            error.status_code, error.detail
        )
        body = error_body(what, found=f"{request.method} {request.url.path[:200]}", hint="see /openapi.json")
        headers = {"allow": _allowed(app, request)} if error.status_code == 405 else error.headers
        return JSONResponse(body, error.status_code, headers)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return JSONResponse(error_body("a bug of edge-mer; the log says more"), 500)


def _allowed(app: FastAPI, request: Request) -> str:
    """The methods of a path, over all routes that have it."""
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    found = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted(set().union(*found)))


# --- what is known -------------------------------------------------------------------------------


def _read_routes(app: FastAPI, around: Surroundings, visitors: _Visitors) -> None:
    feed = around.feed
    may_read = [Depends(visitors.who_may("read"))]

    @app.get(
        "/v1/predictions/latest",
        response_model=None,
        dependencies=may_read,
        tags=["predictions"],
        responses={200: {"model": shapes.PredictionShape}, 404: {"model": shapes.ErrorBody}},
    )
    async def latest_prediction(
        person: Annotated[
            str | None, Query(max_length=64, description="such as p1, with several people")
        ] = None,
    ) -> Response:
        """The newest prediction; with several people, the newest that came, or that of one of them."""
        record = feed.latest(person)
        if record is not None:
            return JSONResponse(record)
        if feed.latest() is None:
            raise _missing("no prediction has come yet")
        raise ApiError(404, "nobody of this name was in the newest predictions", found=person)

    @app.get(
        "/v1/health",
        response_model=None,
        dependencies=may_read,
        tags=["device"],
        responses={200: {"model": shapes.HealthShape}},
    )
    async def health() -> Response:
        """How sensors, inference and the gateway are."""
        return JSONResponse({**feed.health_told(), "gateway": around.own_health()})

    @app.get(
        "/v1/model",
        response_model=None,
        dependencies=may_read,
        tags=["device"],
        responses={200: {"model": shapes.ModelShape}},
    )
    async def model() -> Response:
        """What is running."""
        if feed.model is None:
            raise _missing("the inference process was not heard yet")
        return JSONResponse(feed.model)

    metrics = Metrics(feed, around.own_health)

    @app.get(
        "/metrics",
        response_model=None,
        dependencies=may_read,
        tags=["device"],
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def prometheus() -> Response:
        """Counts and states for Prometheus; no estimate of a person is among them."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


# --- streams -------------------------------------------------------------------------------------


def _stream_routes(app: FastAPI, feed: Feed, visitors: _Visitors) -> None:
    @app.get(
        "/v1/predictions",
        response_class=StreamingResponse,
        tags=["predictions"],
        dependencies=[Depends(visitors.who_may("read"))],
        description=_EVENTS,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def predictions(request: Request) -> StreamingResponse:
        is_welcome = visitors.watch(request)
        return StreamingResponse(_server_sent(feed, is_welcome), media_type="text/event-stream")

    @app.websocket("/v1/predictions")
    async def predictions_websocket(websocket: WebSocket) -> None:
        try:
            visitor = visitors.find(websocket)
            if "read" not in visitor.may:
                raise ApiError(403, f"{visitor.name} may not do this", expected="the right 'read'")
        except ApiError as error:
            await refuse(error, websocket.scope, websocket.receive, websocket.send)
            return
        await websocket.accept()
        with feed.subscribe(visitors.watch(websocket)) as subscription:
            async with anyio.create_task_group() as group:
                group.start_soon(_send_all, websocket, subscription)
                await _until_gone(websocket)
                group.cancel_scope.cancel()


async def _server_sent(feed: Feed, is_welcome: Callable[[], bool]) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    with feed.subscribe(is_welcome) as subscription:
        while (event := await subscription.next()) is not None:
            yield f"event: {event.kind}\ndata: {event.text}\n\n"


async def _send_all(websocket: WebSocket, subscription: Subscription) -> None:
    try:
        while (event := await subscription.next()) is not None:
            await websocket.send_text(event.text)
        if subscription.is_welcome():
            await websocket.close(1001)
        else:
            await websocket.close(1008, "the session ended")
    except WebSocketDisconnect:
        return


async def _until_gone(websocket: WebSocket) -> None:
    """A client has nothing to say here; one that speaks is shown out."""
    message = await websocket.receive()
    if message["type"] == "websocket.receive":
        await websocket.close(1008, "nothing is taken here")


# --- what can be done ----------------------------------------------------------------------------


def _alarm_routes(app: FastAPI, around: Surroundings, visitors: _Visitors) -> None:
    @app.get(
        "/v1/alarms",
        response_model=None,
        dependencies=[Depends(visitors.who_may("read"))],
        tags=["alarms"],
        responses={200: {"model": shapes.AlarmsShape}},
    )
    async def alarms() -> Response:
        """All alarms that are there now."""
        return JSONResponse({"alarms": around.feed.alarms})

    @app.post(
        "/v1/alarms/{alarm_id}/acknowledge",
        response_model=None,
        tags=["alarms"],
        responses={200: {"model": shapes.DoneShape}, 404: {"model": shapes.ErrorBody}},
    )
    async def acknowledge(
        alarm_id: Annotated[str, Path(max_length=200)],
        visitor: Annotated[Visitor, Depends(visitors.who_may("acknowledge"))],
    ) -> Response:
        """Say that somebody has seen it."""
        if alarm_id not in {alarm["id"] for alarm in around.feed.alarms}:
            raise ApiError(404, "there is no such alarm", found=alarm_id, hint="see /v1/alarms")
        return JSONResponse(await around.asks.ask("acknowledge", visitor.name, id=alarm_id))


def _bundle_routes(app: FastAPI, around: Surroundings, visitors: _Visitors) -> None:
    feed, asks = around.feed, around.asks
    uploads = Uploads(around.upload_dir, around.limits.bundle_bytes)
    body = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES}

    @app.get(
        BUNDLE_PATH,
        response_model=None,
        dependencies=[Depends(visitors.who_may("read"))],
        tags=["bundle"],
        responses={200: {"model": shapes.BundleShape}},
    )
    async def bundle() -> Response:
        """What runs, whether one before it can be taken again, and how far a new one has come."""
        health = feed.health
        if health is None:
            raise _missing("the inference process was not heard yet")
        known = {"bundle_id": health.get("bundle_id"), "can_go_back": bool(health.get("can_go_back"))}
        return JSONResponse({**known, "swap": health.get("swap") or {"state": "none"}})

    @app.post(
        BUNDLE_PATH,
        response_model=None,
        status_code=202,
        tags=["bundle"],
        openapi_extra={"requestBody": {"required": True, "content": body}},
        responses={
            202: {"model": shapes.DoneShape},
            409: {"model": shapes.ErrorBody},
            415: {"model": shapes.ErrorBody},
            507: {"model": shapes.ErrorBody},
        },
    )
    async def bring_bundle(
        request: Request, visitor: Annotated[Visitor, Depends(visitors.who_may("swap"))]
    ) -> Response:
        """Bring a bundle's .tar; once checked, built and tried beside the other, it takes its place."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in MEDIA_TYPES:
            raise ApiError(
                415,
                "this is no bundle",
                expected=" or ".join(MEDIA_TYPES),
                found=media_type[:100],
                headers={"connection": "close"},
            )
        announced = request.headers.get("content-length")
        file = await uploads.take(request.stream(), int(announced) if announced else None)
        with file:
            return JSONResponse(await asks.ask("swap", visitor.name, file.fileno()), 202)

    @app.post(
        f"{BUNDLE_PATH}/rollback",
        response_model=None,
        status_code=202,
        tags=["bundle"],
        responses={202: {"model": shapes.DoneShape}},
    )
    async def roll_back(visitor: Annotated[Visitor, Depends(visitors.who_may("swap"))]) -> Response:
        """Take the bundle before this one again."""
        return JSONResponse(await asks.ask("rollback", visitor.name), 202)


# --- sessions ------------------------------------------------------------------------------------


def _login_routes(app: FastAPI, around: Surroundings, visitors: _Visitors) -> None:
    @app.post(
        "/v1/login", response_model=None, tags=["session"], responses={200: {"model": shapes.VisitorShape}}
    )
    async def login(request: Request, asked: shapes.LoginShape) -> Response:
        """A token for a session: the page keeps its cookie, which no script can read."""
        if visitors.doorkeeper.is_open:
            return JSONResponse(_told(LOCAL, None))
        visitor = visitors.by_token(asked.token, request)
        session = visitors.doorkeeper.log_in(visitor)
        around.asks.audit("login", visitor.name)
        response = JSONResponse(_told(visitor, session.expires_utc.isoformat()))
        is_https = request.url.scheme == "https"
        response.set_cookie(
            SESSION_COOKIE, session.id, max_age=SESSION_S, httponly=True, samesite="strict", secure=is_https
        )
        return response

    @app.post("/v1/logout", response_model=None, status_code=204, tags=["session"])
    async def logout(request: Request) -> Response:
        """End the session, if there is one."""
        visitors.doorkeeper.log_out(request.cookies.get(SESSION_COOKIE, ""))
        response = Response(status_code=204)
        response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return response


def _told(visitor: Visitor, expires_utc: str | None) -> dict[str, Any]:
    return {"name": visitor.name, "may": sorted(visitor.may), "expires_utc": expires_utc}


# --- for everybody -------------------------------------------------------------------------------


def _open_routes(app: FastAPI, around: Surroundings) -> None:
    feed = around.feed

    @app.get("/healthz", response_model=None, tags=["probes"], responses={200: {"model": shapes.StateShape}})
    async def alive() -> Response:
        """The gateway answers."""
        return JSONResponse({"state": "alive"})

    @app.get("/readyz", response_model=None, tags=["probes"], responses={200: {"model": shapes.StateShape}})
    async def ready() -> Response:
        """Predictions come."""
        if not feed.is_ready:
            raise _missing(f"no predictions come: {feed.state}")
        return JSONResponse({"state": feed.state})

    for path, file in read_page().items():
        app.add_api_route(path, _giver(file), include_in_schema=False, response_model=None)


def _giver(file: PageFile) -> Callable[[], Response]:
    def give() -> Response:
        return Response(file.content, media_type=file.media_type)

    return give
