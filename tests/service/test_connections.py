"""Connections: silent and slow ones are closed, floods leave room for others, and TLS."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from genprm_trl.client import VerifierClient
from genprm_trl.errors import ConfigError
from genprm_trl.service import ServiceLimits, connections
from genprm_trl.service.connections import SeldomFilter, quieten_floods
from genprm_trl.service.server import check_certificate
from tests.helpers.running_service import (
    TOKEN,
    Running,
    connect,
    direct,
    lines,
    rows,
    running,
    solutions,
    talk,
    wait_for,
)

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has ended a connection; what it has sent is dropped."""
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65536):
                return True
        except ConnectionError:
            return True
    return False


@pytest.fixture(scope="module")
def impatient():
    with running(direct(delay=1.0), ServiceLimits(head_seconds=0.5)) as service:
        yield service


def test_a_connection_that_says_nothing_is_closed(impatient):
    with connect(impatient) as connection:
        wait_for(lambda: is_closed(connection))


@pytest.mark.parametrize("before", [b"", GET])
def test_a_head_that_comes_drop_by_drop_gains_no_time(impatient, before):
    """As the first request of a connection, and after one that was answered."""
    with connect(impatient) as connection:
        if before:
            connection.sendall(before)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        head = iter(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 5000)

        def drip() -> bool:
            with contextlib.suppress(ConnectionError):
                connection.send(bytes([next(head)]))
            time.sleep(0.01)
            return is_closed(connection)

        wait_for(drip)
        assert next(head)  # it was closed before the head could have ended


def test_a_body_and_a_verdict_may_take_longer_than_a_head(impatient):
    body = b'{"solutions": [{"problem": "p", "steps": ["s"]}]}'
    with connect(impatient) as connection:
        head = "POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:9])
        time.sleep(0.8)
        connection.sendall(body[9:])
        answer = connection.recv(65536)
        while b'"rewards"' not in answer:
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")


def test_idle_connections_make_room_for_others(monkeypatch, caplog):
    with running(direct(), ServiceLimits(head_seconds=600)) as service, contextlib.ExitStack() as stack:
        highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        while stack.enter_context(socket.socket()).fileno() <= highest:
            pass  # the numbers below have to be taken
        monkeypatch.setattr(connections, "_MOST_DESCRIPTORS", highest + 42)
        first = [stack.enter_context(connect(service)) for _ in range(10)]
        wait_for(lambda: len(service.server.server_state.connections) >= 10)
        further = [stack.enter_context(connect(service)) for _ in range(40)]
        wait_for(lambda: sum(map(is_closed, further)) > 20)
        assert all(map(is_closed, first))  # those that had been silent for longest
        # Nobody's descriptors but theirs: the others are as good as ever.
        monkeypatch.setattr(connections, "_MOST_DESCRIPTORS", 9999)
        assert service.get("/health/live").status_code == 200
    assert "descriptors kept for the sandbox" in caplog.text


def test_a_request_in_progress_outlives_a_flood(monkeypatch):
    with running(direct(delay=1.0)) as service, contextlib.ExitStack() as stack:
        body = b'{"solutions": [{"problem": "p", "steps": ["s"]}]}'
        head = "POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with connect(service) as working:
            working.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: service.metrics()["genprm_solutions_running"] == 1)
            monkeypatch.setattr(connections, "_MOST_DESCRIPTORS", 0)
            crowd = [stack.enter_context(connect(service)) for _ in range(50)]
            wait_for(lambda: all(map(is_closed, crowd)))
            answer = b""
            while b'"rewards"' not in answer:
                answer += (part := working.recv(65536))
                assert part


@pytest.mark.parametrize("silent", [b"", GET[:20]])
def test_idle_connections_beyond_the_maximum_make_room(silent):
    with running(direct(), ServiceLimits(max_connections=4, head_seconds=600)) as service, contextlib.ExitStack() as s:
        crowd = [s.enter_context(connect(service)) for _ in range(30)]
        for connection in crowd:
            with contextlib.suppress(ConnectionError):
                connection.sendall(silent)
        wait_for(lambda: sum(map(is_closed, crowd)) >= 26)
        with httpx2.Client(base_url=service.url) as newcomer:
            assert newcomer.get("/health/live").status_code == 200
        assert all(map(is_closed, crowd[:26]))  # those that had been silent for longest
        assert len(service.server.server_state.connections) <= 4


def test_where_no_connection_is_idle_requests_on_more_get_503():
    body = b'{"solutions": [{"problem": "p", "steps": ["s"]}]}'
    head = "POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with (
        running(direct(), ServiceLimits(max_connections=2)) as service,
        connect(service) as one,
        connect(service) as two,
    ):
        for connection in (one, two):
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        wait_for(lambda: service.app.state.service.requests == 2)
        with httpx2.Client(base_url=service.url) as other:
            answer = other.get("/health/live")
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "busy"
        assert int(answer.headers["retry-after"]) > 0
        one.sendall(body)
        assert one.recv(65536).startswith(b"HTTP/1.1 200")


def take_nothing(service: Running) -> socket.socket:
    """A connection that is full of answers, none of which is read."""
    connection = connect(service, buffer=1024)
    connection.setblocking(False)
    state = service.server.server_state
    answers = 0
    wait_for(lambda: state.connections)
    while any(not c.flow.write_paused for c in state.connections.copy()) or answers != state.total_requests:
        answers = state.total_requests
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection.send(GET.replace(b"/health/live", b"/openapi.json") * 100)
        time.sleep(0.1)
    return connection


def test_a_client_that_asks_on_and_takes_nothing_is_closed():
    with running(direct(), ServiceLimits(send_seconds=0.5, head_seconds=600)) as service:
        with take_nothing(service):
            wait_for(lambda: not service.server.server_state.connections)
        assert service.get("/health/live").status_code == 200


def test_a_client_that_takes_nothing_makes_room():
    limits = ServiceLimits(send_seconds=600, head_seconds=600, max_connections=1)
    with running(direct(), limits) as service, take_nothing(service):
        assert service.get("/health/live").status_code == 200
        wait_for(lambda: len(service.server.server_state.connections) == 1)


def test_an_answer_may_take_longer_than_a_head():
    """One that is complete for the server, but not for a client that takes it slowly."""
    limits = ServiceLimits(head_seconds=0.3, send_seconds=600)
    table = [{"id": f"{i}" + "x" * 20_000, "problem": "p", "steps": ["s"]} for i in range(250)]
    body = json.dumps({"solutions": table, "stream": False}).encode()
    head = "POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with running(direct(), limits) as service, connect(service, buffer=4096) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: service.metrics().get("genprm_http_requests_total 200 /verify") == 1)
        time.sleep(1)
        answer = b""
        while part := connection.recv(1 << 20):
            answer += part
    given, _, text = answer.partition(b"\r\n\r\n")
    assert given.startswith(b"HTTP/1.1 200")
    assert len(json.loads(text)["verdicts"]) == 250


def test_an_upgrade_is_answered_as_any_request(impatient, caplog):
    upgrade = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert talk(impatient, upgrade).startswith(b"HTTP/1.1 200")
    assert not caplog.records


def test_what_strangers_send_is_neither_quoted_nor_logged_each_time(caplog):
    quieten_floods()
    caplog.set_level(logging.INFO, logger="genprm_trl")
    with running(direct(), token=TOKEN) as service, connect(service) as stranger:
        request = b"GET /verify HTTP/1.1\r\nHost: x\r\n\r\n".replace(b"GET", b"Q" * 6000)
        for path in (b"/verify", b"/elsewhere", b"/health"):
            for _ in range(20):
                stranger.sendall(request.replace(b"/verify", path))
                answer = b""
                while not answer.endswith(b"}\n"):
                    answer += (part := stranger.recv(65536))
                    assert part
                assert answer.startswith(b"HTTP/1.1 4")
    shown = [r.getMessage() for r in caplog.records if r.name.startswith("genprm_trl.service")]
    refused = [text for text in shown if text.startswith("other ")]
    assert len(refused) == 2  # for the health of the server, none
    assert "QQ" not in caplog.text


def test_the_descriptor_limit_becomes_the_hard_one():
    program = (
        "import resource; from genprm_trl.service.connections import raise_descriptor_limit as f;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60)); print(f(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "60 (60, 60)\n"


@pytest.mark.serial
def test_no_descriptor_for_a_connection_is_one_line(caplog):
    """asyncio would write tracebacks by the thousand."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running(direct()) as service, contextlib.ExitStack() as stack:
        host, port = service.url.removeprefix("http://").split(":")
        waiting = [stack.enter_context(socket.socket()) for _ in range(8)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (waiting[-1].fileno() + 1, before[1]))
            for connection in waiting:
                connection.connect((host, int(port)))
            wait_for(lambda: "no connection can be taken" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        waiting[-1].sendall(GET)  # the first ones may have made room for others
        assert waiting[-1].recv(65536).startswith(b"HTTP/1.1 200")
    assert "Traceback" not in caplog.text
    assert not any(record.name == "asyncio" for record in caplog.records)


def test_a_message_that_strangers_cause_shows_seldom():
    seldom = SeldomFilter(0.2)

    def shown(text: str) -> str | None:
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, text, (), None)
        return record.getMessage() if seldom.filter(record) else None

    assert [shown("Invalid HTTP request received.") for _ in range(500)] == ["Invalid HTTP request received."] + [
        None
    ] * 499
    assert shown("another") == "another"
    time.sleep(0.25)
    assert shown("Invalid HTTP request received.") == (
        "Invalid HTTP request received. (499 more since the last such line)"
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"),
            *("-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


def test_tls(certificate):
    cert, key = certificate
    check_certificate(cert, key)
    with running(direct(), ssl_certfile=cert, ssl_keyfile=key) as service:
        assert service.url.startswith("https://")
        assert len(lines(service.post({"solutions": rows(2)}))) == 2
        client = VerifierClient(service.url, ca_file=cert, patience=0)
        assert [verdict.id for verdict in client.verify_all(solutions(1))] == ["s0"]
        with pytest.raises(Exception, match="certificate"):
            list(VerifierClient(service.url, patience=0).verify_all(solutions(1)))


def test_a_handshake_that_does_not_come_is_given_up(certificate):
    cert, key = certificate
    limits = ServiceLimits(head_seconds=0.5)
    with running(direct(), limits, ssl_certfile=cert, ssl_keyfile=key) as service, connect(service) as connection:
        wait_for(lambda: is_closed(connection), 30)


def test_handshakes_that_do_not_come_make_room(certificate):
    cert, key = certificate
    limits = ServiceLimits(head_seconds=600, max_connections=4)
    with running(direct(), limits, ssl_certfile=cert, ssl_keyfile=key) as service, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connect(service)) for _ in range(30)]
        wait_for(lambda: sum(map(is_closed, crowd)) >= 26)
        assert service.get("/health/live").status_code == 200
        wait_for(lambda: all(map(is_closed, crowd[:27])))
        # Those that fail by themselves do not count.
        for connection in crowd:
            connection.close()
        assert service.get("/health/live").status_code == 200


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("tls", [False, True])
def test_idle_connections_do_not_hold_up_the_end(request, caplog, tls):
    names = (
        dict(zip(("ssl_certfile", "ssl_keyfile"), request.getfixturevalue("certificate"), strict=True)) if tls else {}
    )
    with running(direct(), **names) as service, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connect(service)) for _ in range(4)]
        if tls:
            context = ssl._create_unverified_context()
            crowd = [stack.enter_context(context.wrap_socket(connection)) for connection in crowd]
        crowd[0].sendall(GET)
        assert crowd[0].recv(65536).startswith(b"HTTP/1.1 200")
        crowd[1].sendall(GET[:20])
        crowd[2].sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert crowd[2].recv(65536).startswith(b"HTTP/1.1 200")  # with TLS, it awaits the client's farewell
        wait_for(lambda: len(service.server.server_state.connections) >= 3)
        service.server.should_exit = True
        service.thread.join(60)
        assert not service.thread.is_alive()
    assert "graceful shutdown exceeded" not in caplog.text


def test_certificates_that_cannot_be_used(certificate, tmp_path):
    cert, key = certificate
    with pytest.raises(ConfigError, match="needs --ssl_certfile"):
        check_certificate(None, key)
    with pytest.raises(ConfigError, match="No such file"):
        check_certificate(str(tmp_path / "none.pem"), None)
    with pytest.raises(ConfigError, match="cannot be used"):
        check_certificate(cert, None)  # no key in it
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigError, match="cannot be used"):
        check_certificate(cert, str(locked))
