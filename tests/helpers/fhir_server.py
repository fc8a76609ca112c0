"""A small FHIR server on the loopback: it takes transactions, and creates what it has not got yet."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.helpers.mqtt_broker import Certificates


class FhirServer:
    """Runs in threads.

    Args:
        certificates: Speaks TLS with these; None: in the clear.
        token: Wants this one.

    Attributes:
        observations: identifier -> Observation, as it came.
        posted: Transactions that it understood.
        fails_with: The status it answers posts with, instead of taking them.
        forgets_to_answer: Takes a transaction, and hangs up.
    """

    def __init__(self, certificates: Certificates | None = None, token: str | None = None) -> None:
        self.observations: dict[str, dict[str, Any]] = {}
        self.posted: list[dict[str, Any]] = []
        self.fails_with: int | None = None
        self.forgets_to_answer = False
        self.token = token
        self._tls = None
        if certificates is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificates.certificate, certificates.key)
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Take connections, on the same port as before."""
        fhir = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200 if self.path == "/r5/metadata" else 404)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"].startswith("application/fhir+json")
                if fhir.fails_with is not None:
                    self._answer(fhir.fails_with)
                    return
                assert self.path == "/r5"
                fhir._take(body)
                if fhir.forgets_to_answer:
                    self.close_connection = True
                    return
                self._answer(200)

            def _answer(self, status: int) -> None:
                is_known = fhir.token is None or self.headers["Authorization"] == f"Bearer {fhir.token}"
                self.send_response(status if is_known else 401)
                self.send_header("Content-Length", "2")
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            def get_request(self) -> tuple[Any, Any]:
                connection, address = super().get_request()
                connection.settimeout(10)
                if fhir._tls is not None:
                    try:
                        connection = fhir._tls.wrap_socket(connection, server_side=True)
                    except OSError:
                        connection.close()
                        raise
                return connection, address

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Take none any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _take(self, bundle: dict[str, Any]) -> None:
        assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "transaction")
        self.posted.append(bundle)
        for entry in bundle["entry"]:
            request, resource = entry["request"], entry["resource"]
            (identifier,) = resource["identifier"]
            condition = f"identifier={identifier['system']}|{identifier['value']}"
            assert request == {"method": "POST", "url": "Observation", "ifNoneExist": condition}
            self.observations.setdefault(identifier["value"], resource)
