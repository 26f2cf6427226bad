"""The client of a SandboxFusion server, against one that misbehaves. Good days are in the conformance suite."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

pytest.importorskip("sandbox_fusion", reason="needs the extra 'fusion'")

from genprm_trl.errors import ConfigError
from genprm_trl.sandbox import FusionSandbox, Limits
from genprm_trl.sandbox import fusion as module
from tests.helpers.fusion_server import FusionServer

FAST = Limits(timeout=3.0, grace=1.0)  # for fresh interpreters, beside whatever else the machine does
FAULTS = ["429", "500", "502", "503", "hang up", "cut short", "html", "not json", "wrong schema", "a list", "empty"]
FAULTS += ["null fields", "sandbox error", "redirects", "redirected away", "reset", "bad compression", "not utf-8"]
FAULTS += [
    "huge",
    "deep",
    "number as text",
    "text as list",
    "unknown status",
    "could not run",
    "half a surrogate",
    "204",
]


@pytest.fixture(scope="module")
def server() -> Iterator[FusionServer]:
    with FusionServer().running() as running:
        yield running


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "sandbox_fusion.client")


def sandbox_for(server: FusionServer, **options: object) -> FusionSandbox:
    return FusionSandbox(server.endpoint, FAST, attempts=3, backoff=0.02, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["script", "jupyter"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_passing_fault_is_retried(server: FusionServer, fault: str, mode: str):
    server.reset(fault, fault)
    result = await sandbox_for(server, mode=mode).session().run("print(1)")
    assert (result.status, result.output) == ("ok", "1")
    assert server.requests == 3


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_lasting_fault_ends_in_a_status(server: FusionServer, fault: str):
    server.reset(fault, forever=True)
    session = sandbox_for(server).session()
    result = await session.run("print(1)")
    assert (result.status, result.output) == ("sandbox_error", "")
    assert result.message.encode("utf-8")
    assert server.requests == 3 * (10 if fault == "redirects" else 1)  # of each request the client follows ten
    server.reset()
    assert (await session.run("print(2)")).output == "2"


async def test_a_block_that_the_server_lost_is_there_for_the_next(server: FusionServer):
    server.reset()
    session = sandbox_for(server).session()
    await session.run("a = 1")
    server.reset(*[FAULTS[0]] * 3)
    assert (await session.run("b = 2")).status == "sandbox_error"
    assert (await session.run("print(a + b)")).output == "3"


@pytest.mark.parametrize("status", ["400", "404", "422"])
async def test_a_rejected_request_is_not_repeated(server: FusionServer, status: str):
    server.reset(status, forever=True)
    result = await sandbox_for(server).session().run("print(1)")
    assert result.status == "sandbox_error"
    assert status in result.message
    assert server.requests == 1


@pytest.mark.parametrize("fault", ["slow", "drips"])
async def test_a_slow_server_is_given_up(server: FusionServer, monkeypatch: pytest.MonkeyPatch, fault: str):
    monkeypatch.setattr(module, "CLIENT_GRACE", 0.1)
    server.reset(fault, forever=True)
    result = (
        await FusionSandbox(server.endpoint, Limits(timeout=0.1, grace=0.1), attempts=2, backoff=0.02)
        .session()
        .run("1")
    )
    assert result.status == "sandbox_error"
    assert "no answer" in result.message or "Timeout" in result.message


async def test_a_server_that_is_not_there():
    result = await FusionSandbox("http://127.0.0.1:9", FAST, attempts=2, backoff=0.02).session().run("print(1)")
    assert (result.status, result.output) == ("sandbox_error", "")


async def test_requests_at_once_are_bounded(server: FusionServer):
    server.reset()
    sandbox = sandbox_for(server, max_concurrency=2)
    results = await asyncio.gather(*(sandbox.session().run(f"print({i})") for i in range(6)))
    assert [r.output for r in results] == [str(i) for i in range(6)]
    assert server.most_at_once == 2


@pytest.mark.parametrize("mode", ["script", "jupyter"])
async def test_hard_timeout(server: FusionServer, mode: str):
    server.reset()
    sandbox = FusionSandbox(server.endpoint, Limits(timeout=0.3, grace=0.7), mode=mode)  # type: ignore[arg-type]
    code = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\nwhile True: pass"
    monkeyed = await sandbox.session().run(code)
    assert monkeyed.status == "timeout"
    assert monkeyed.output == "Code execute time out: Code execution timed out"
    assert server.requests == 1


async def test_memory_limit(server: FusionServer):
    server.reset()
    result = await FusionSandbox(server.endpoint, Limits(memory=1 << 29)).session().run("x = bytearray(1 << 31)")
    assert (result.status, result.output) == ("memory", "Code execute Error: MemoryError: ")


async def test_a_printed_result_is_not_believed(server: FusionServer):
    server.reset()
    answer = '{"status": "ok", "output": "forged", "seconds": 0.0}'
    code = f"import os\nos.write(1, {('<' + '0' * 32 + '>' + answer).encode()!r})\nos._exit(0)"
    result = await sandbox_for(server).session().run(code)
    assert result.status == "killed"
    assert "forged" not in result.output


async def test_a_forged_answer_is_still_a_result(server: FusionServer):
    """The driver shares the program's process: what it reports is bounded and well-formed all the same."""
    forge = (
        "import gc, json, os, stat\n"
        "marker = next(d['marker'] for d in gc.get_objects() if type(d) is dict and 'marker' in d and 'blocks' in d)\n"
        "answer = {'status': 'ok', 'output': CONTENT, 'seconds': SECONDS}\n"
        "line = ('\\n' + marker + json.dumps(answer) + '\\n').encode()\n"
        "for d in range(3, 64):\n"
        "    try:\n"
        "        while line: line = line[os.write(d, line):]\n"
        "        os._exit(0)\n"
        "    except OSError: pass\n"
    )
    server.reset()
    for content, seconds in (("'x' * (1 << 22)", "-5.0"), ("'\\ud800'", "1e9"), ("'1'", "float('nan')")):
        code = forge.replace("CONTENT", content).replace("SECONDS", seconds)
        result = await sandbox_for(server).session().run(code)
        assert result.status in ("ok", "killed"), result
        assert len(result.output.encode("utf-8")) < 4 * FAST.output
        assert 0 <= result.seconds < 1e6
        assert (result.status == "killed") == ("nan" in seconds)


async def test_a_flood_past_standard_output_goes_nowhere(server: FusionServer):
    server.reset()
    flood = "import os\nwhile True: os.write(1, bytes(1 << 20))"
    assert (await sandbox_for(server).session().run(flood)).status == "timeout"


async def test_cancelled_requests_give_their_place_back(server: FusionServer):
    server.reset("slow", forever=True)
    sandbox = sandbox_for(server, max_concurrency=2)
    requests = [asyncio.create_task(sandbox.session().run("1")) for _ in range(6)]
    await asyncio.sleep(0.1)
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    server.reset()
    assert (await sandbox.session().run("print(1)")).output == "1"


async def test_blocks_that_raised_are_part_of_the_state(server: FusionServer):
    server.reset()
    session = sandbox_for(server).session()
    await session.run("x = 1\n1/0")
    await session.run("x = 2\nwhile True: pass")  # of a block that timed out nothing is kept
    assert (await session.run("print(x)")).output == "1"


@pytest.mark.parametrize(
    "options", [{"max_concurrency": 0}, {"attempts": 0}, {"backoff": -1}, {"seed": -1}, {"endpoint": "localhost:80"}]
)
def test_options_are_checked(options: dict[str, object]):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FusionSandbox(**options)  # type: ignore[arg-type]


def test_an_unknown_mode_is_an_error(server: FusionServer):
    with pytest.raises(ConfigError, match="script, jupyter"):
        FusionSandbox(server.endpoint, mode="notebook")  # type: ignore[arg-type]
