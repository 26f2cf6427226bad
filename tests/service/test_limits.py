"""What the service refuses, how it says so, and that nothing a caller sends is answered with a 500."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genprm_trl.errors import ConfigError
from genprm_trl.service import ServiceLimits, create_app
from genprm_trl.service.auth import read_token
from genprm_trl.service.server import listen
from tests.helpers.running_service import TOKEN, direct, lines, rows, running, talk, wait_for

LIMITS = ServiceLimits(
    max_body_mb=20_000 / 2**20, max_solutions=5, max_steps=4, max_characters=1000, max_n=3, body_seconds=0.5
)


@pytest.fixture(scope="module")
def service():
    with running(direct(), LIMITS) as service:
        yield service


def one(**fields: object) -> dict[str, object]:
    return {"solutions": [rows(1)[0], {**rows(1, start=1)[0], **fields}]}


@pytest.mark.parametrize(
    ("body", "status", "message", "row", "field"),
    [
        (b"", 400, "not valid JSON", None, None),
        (b"{", 400, "line 1, column 2", None, None),
        (b'{"solutions": "\xff"}', 400, "not UTF-8", None, None),
        (b"[" * 15_000, 400, "nested too deeply", None, None),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400, "not usable JSON", None, None),
        ([], 422, "must be a JSON object", None, None),
        ({}, 422, "required", None, "solutions"),
        ({"solutions": []}, 422, "at least 1", None, "solutions"),
        ({"solutions": rows(6)}, 422, "a request may hold 5", None, "solutions"),
        ({"solutions": [3]}, 422, "row 1: must be a JSON object", 1, None),
        (one(problem=None), 422, "row 2, field 'problem'", 2, "problem"),
        (one(steps=[]), 422, "row 2, field 'steps'", 2, "steps"),
        (one(steps=["a", " "]), 422, "row 2, field 'steps[1]'", 2, "steps[1]"),
        (one(steps=["a"] * 5), 422, "5 steps; at most 4", 2, "steps"),
        (one(steps=["a" * 999]), 422, "1001 characters", 2, None),
        (one(steps=["\ud800"]), 422, "lone surrogate", 2, "steps[0]"),
        (one(id="s0"), 422, "id of row 1 already", 2, "id"),
        (one(label=1), 422, "row 2, field 'label'", 2, "label"),
        (one(label=float("nan")), 422, "row 2, field 'label'", 2, "label"),
        ({"solutions": rows(1), "n": 4}, 422, "at most 3", None, "n"),
        ({"solutions": rows(1), "n": 0}, 422, "greater than or equal to 1", None, "n"),
        ({"solutions": rows(1), "n": True}, 422, "integer", None, "n"),
        ({"solutions": rows(1), "threshold": 1.5}, 422, "less than or equal to 1", None, "threshold"),
        ({"solutions": rows(1), "threshold": float("nan")}, 422, "", None, "threshold"),
        ({"solutions": rows(1), "seed": -1}, 422, "", None, "seed"),
        ({"solutions": rows(1), "mode": "thorough"}, 422, "'full'", None, "mode"),
        ({"solutions": rows(1), "mode": "full"}, 422, "needs a sandbox", None, None),
        ({"solutions": rows(1), "stop": "soon"}, 422, "first_error", None, "stop"),
        ({"solutions": rows(1), "temperature": 0}, 422, "not permitted", None, "temperature"),
        ({"solutions": rows(1), "\ud800": 0}, 422, "unicode", None, None),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(service, body, status, message, row, field):
    answer = service.post(body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert message in error["message"]
    assert (error.get("row"), error.get("field")) == (row, field)


@pytest.mark.parametrize("declared", [True, False])
def test_large_bodies_are_refused_while_they_are_read(service, declared):
    body = json.dumps({"solutions": rows(1), "pad": "x" * 300_000}).encode()
    content = body if declared else (body[i : i + 5000] for i in range(0, len(body), 5000))
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{service.url}/verify", content=content, headers=headers, timeout=30)
    assert answer.status_code == 413
    assert "20,000 bytes" in answer.json()["error"]["message"]


def test_a_huge_declared_length_is_refused_before_anything_is_sent(service):
    for length in (10**9, 10**19):
        head = "POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        assert talk(service, f"{head}Content-Length: {length}\r\n\r\n".encode()).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_given_up(service):
    head = (
        b"POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    assert talk(service, head).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_other_kinds_of_bodies(service, headers, status):
    assert service.post({"solutions": rows(1)}, headers=headers).status_code == status


def test_unknown_routes_and_methods_have_the_same_form(service):
    assert service.get("/nowhere").json()["error"]["type"] == "not_found"
    answer = service.get("/verify")
    assert (answer.status_code, answer.json()["error"]["type"]) == (405, "method_not_allowed")


def test_a_full_queue_answers_429_and_says_when_to_come_back():
    prm = direct(delay=0.3, max_chains=1)
    with running(prm, ServiceLimits(max_queue=4)) as service:

        async def crowd() -> list[httpx2.Response]:
            async with httpx2.AsyncClient(timeout=60) as http:
                first = asyncio.create_task(http.post(f"{service.url}/verify", json={"solutions": rows(6)}))
                await asyncio.to_thread(wait_for, lambda: service.metrics()["genprm_solutions_waiting"] >= 4)
                refused = await http.post(f"{service.url}/verify", json={"solutions": rows(1)})
                return [refused, await first]

        refused, first = asyncio.run(crowd())
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "busy"
        assert len(lines(first)) == 6
        assert service.post({"solutions": rows(1)}).status_code == 200
        assert service.metrics()["genprm_http_requests_total 429 /verify"] == 1


def test_requests_in_progress_are_bounded_even_before_their_bodies_come():
    with running(direct(), ServiceLimits(max_requests=2)) as service:
        host, port = service.url.removeprefix("http://").split(":")
        head = (
            b"POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
        idle = [socket.create_connection((host, int(port))) for _ in range(2)]
        for connection in idle:
            connection.sendall(head)
        wait_for(lambda: service.metrics()["genprm_http_requests_in_progress /verify"] == 2)
        assert service.post({"solutions": rows(1)}).status_code == 429
        for connection in idle:
            connection.close()
        wait_for(lambda: service.metrics()["genprm_http_requests_in_progress /verify"] == 0)
        assert service.post({"solutions": rows(1)}).status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer \u00e9\u00e8", 401),
    ],
)
def test_the_token_opens_what_it_guards(guarded, header, status):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = guarded.post({"solutions": rows(1)}, headers=headers)
    assert answer.status_code == status
    assert guarded.get("/metrics", headers=headers).status_code == status
    assert guarded.get("/health").status_code == guarded.get("/health/live").status_code == 200
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text


@pytest.fixture(scope="module")
def guarded():
    with running(direct(), token=TOKEN) as service:
        yield service


def test_nothing_is_read_of_an_unauthorised_body(guarded):
    head = b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{"
    assert talk(guarded, head).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_open_addresses_need_a_token(host):
    with pytest.raises(ConfigError, match="no token"):
        listen(host, 0, guarded=False)


def test_addresses_that_cannot_be_used():
    with listen("127.0.0.1", 0, guarded=False) as taken, pytest.raises(ConfigError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1], guarded=False)
    for host, port in (("no such host", 80), ("192.0.2.1", 80), ("127.0.0.1", 99_999), ("127.0.0.1", -1)):
        with pytest.raises(ConfigError, match="cannot listen"):
            listen(host, port, guarded=True)


def test_tokens_come_from_a_file_or_the_environment(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("GENPRM_SERVICE_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("GENPRM_SERVICE_TOKEN", "too short")
    with pytest.raises(ConfigError, match="at least 16"):
        read_token()
    monkeypatch.setenv("GENPRM_SERVICE_TOKEN", TOKEN)
    assert read_token() == TOKEN
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(file))
    file.write_text(TOKEN + "2\n")
    file.chmod(0o600)
    assert read_token(str(file)) == TOKEN + "2"
    assert not caplog.records
    file.chmod(0o644)
    read_token(str(file))
    assert "other users" in caplog.text


def test_limits_that_make_no_sense():
    with pytest.raises(ConfigError, match="max_queue must be positive"):
        ServiceLimits(max_queue=0)
    with pytest.raises(ConfigError, match="n is 8"):
        create_app(direct(n=8), limits=LIMITS)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
_FIELDS = ["solutions", "n", "mode", "stop", "adaptive", "threshold", "seed", "rationales", "stream", "id", "problem"]
_FIELDS += ["steps", "label", "answer", "final_answer_correct", "generator", "extra"]
_NEARLY = st.dictionaries(st.sampled_from(_FIELDS), _JSON | st.sampled_from(["a", ["a"], 1, 0.5, True]), max_size=6)
_ROW = st.fixed_dictionaries({"problem": st.text(st.characters(), max_size=9), "steps": _JSON}) | _NEARLY
_BODY = st.builds(
    lambda table, options: {**options, "solutions": table}, st.lists(_ROW, max_size=4), _NEARLY
) | _JSON  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_BODY.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60), data=st.data())
def test_no_body_makes_the_server_fail(service, body, data):
    cut = data.draw(st.integers(0, len(body)) | st.just(len(body)))
    answer = service.post(body[:cut])
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        found = answer.json() if answer.headers["content-type"] == "application/json" else lines(answer)
        assert found
        assert "internal" not in answer.text
    else:
        assert set(answer.json()["error"]) <= {"type", "message", "row", "field"}
