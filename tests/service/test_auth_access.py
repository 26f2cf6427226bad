"""Who is answered: by the request's raw Host, on every path, and by the token."""

from __future__ import annotations

import pytest

from tests.helpers.running_service import TOKEN, Running, direct, rows, running, talk

PATHS = ("/verify", "/metrics", "/health", "/health/live", "/openapi.json", "/nowhere")


@pytest.fixture(scope="module")
def service():
    with running(direct()) as service:
        yield service


@pytest.fixture(scope="module")
def guarded():
    with running(direct(), token=TOKEN) as service:
        yield service


def status(service: Running, *head: bytes, path: bytes = b"/health", version: bytes = b"1.1") -> int:
    """The status of a GET with such lines as its head."""
    request = b"\r\n".join([b"GET " + path + b" HTTP/" + version, *head, b"Connection: close", b"", b""])
    return int(talk(service, request).split(b" ", 2)[1])


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "localhost:1", "127.0.0.1", "127.9.8.7:65535", "[::1]", "[::1]:80", "[0:0::1]"]
)
def test_this_machines_own_names_are_let_through(service, host):
    assert status(service, b"Host: " + host.encode()) == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example",
        b"evil.localhost",
        b"localhost.",
        b"127.0.0.1.",
        b"[::]",
        b"0.0.0.0",
        b"192.0.2.1:80",
        b"2130706433",
        b"127.1",
        b"0x7f.0.0.1",
        b"[::2]:80",
    ],
)
def test_other_names_are_refused(service, host):
    assert status(service, b"Host: " + host) == 403


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a`b.evil.example:18431",
        b"a{b.evil.example",
        b"a}b.evil.example",
        b'a"b.evil.example',
        b"\xe9vil",
        "évil".encode(),
        b"evil.example:",
        b"evil.example:65536",
        b"localhost:",
        b"localhost:0",
        b"localhost:65536",
        b"localhost:+1",
        b"localhost:80:80",
        b"localhost:\xd9\xa1",
        b"localhost, evil.example",
        b"localhost evil.example",
        b"localhost/evil.example",
        b"localhost\\evil.example",
        b"user@localhost",
        b"evil.example@localhost",
        b"localhost#evil",
        b"[evil]",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[::1%25lo]",
        b"[127.0.0.1",
        b"..localhost",
        b"localhost..",
    ],
)
def test_malformed_names_are_refused_with_and_without_a_token(service, guarded, host):
    assert status(service, b"Host: " + host) == status(guarded, b"Host: " + host) == 400


@pytest.mark.parametrize("hosts", [[], [b"localhost"] * 2, [b"localhost", b"evil.example"]])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_request_names_one_host(service, hosts, version):
    assert status(service, *(b"Host: " + host for host in hosts), version=version) == 400


def test_an_old_client_that_names_its_host_is_answered(service):
    assert status(service, b"Host: localhost", version=b"1.0") == 200


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_answered_under_another_name(service, path):
    assert status(service, b"Host: evil.example", path=path.encode()) == 403
    assert status(service, b"Host: a`b", path=path.encode()) == 400


@pytest.mark.parametrize("target", [b"http://localhost/health", b"http://evil.example/health", b"*", b"localhost:80"])
def test_a_request_names_a_path(service, target):
    assert status(service, b"Host: localhost", path=target) == 400


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (b"http://localhost:3000", 200),
        (b"https://127.0.0.1", 200),
        (b"http://evil.example", 403),
        (b"http://localhost.evil.example", 403),
        (b"null", 403),
        (b"", 403),
        (b"capacitor://localhost", 403),
        (b"http://localhost@evil.example", 403),
    ],
)
def test_pages_from_elsewhere_are_refused_without_a_token(service, guarded, origin, expected):
    assert status(service, b"Host: localhost", b"Origin: " + origin) == expected
    assert status(guarded, b"Host: localhost", b"Origin: " + origin) == 200


@pytest.mark.parametrize("path", PATHS)
def test_only_health_is_open_beside_a_token(guarded, path):
    expected = 200 if path.startswith("/health") else 401
    answers = [guarded.get(path), guarded.get(path, headers={"Authorization": "Bearer no"})]
    assert [answer.status_code for answer in answers] == [expected] * 2
    allowed = guarded.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert allowed.status_code == {"/verify": 405, "/nowhere": 404}.get(path, 200)


def test_a_token_is_given_once(guarded):
    line = b"Authorization: Bearer " + TOKEN.encode()
    assert status(guarded, b"Host: a.example", line, path=b"/metrics") == 200
    assert status(guarded, b"Host: a.example", line, line, path=b"/metrics") == 401
    assert status(guarded, b"Host: a.example", line, b"Authorization: Bearer no", path=b"/metrics") == 401


def test_no_redirect_leads_to_where_the_request_says(guarded):
    access = {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}
    assert guarded.post({"solutions": rows(1)}, headers=access).status_code == 200
    for path in ("/verify/", "/metrics/", "/health/", "/openapi.json/"):
        answer = guarded.get(path, headers=access)
        assert answer.status_code == 404
        assert "evil" not in str(answer.headers) + answer.text
