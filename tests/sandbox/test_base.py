"""What every sandbox does, whoever provides it. A provider joins by an entry in conftest.PROVIDERS."""

import asyncio
import re

import pytest

from genprm_trl.sandbox import FusionSandbox, Limits, Sandbox, Session

E = "Code execute Error: "
CLOSED = "ValueError: I/O operation on closed file."
TIMEOUT_TEXT = "Code execute time out: Code execution timed out"

WIRE = {
    "printed text is stripped": ("print()\nprint(' 1 ')\nprint()", "ok", "1"),
    "nothing printed": ("x = 1", "ok", ""),
    "empty code": ("", "ok", ""),
    "no final newline": ("print('a', end='')", "ok", "a"),
    "inner white space stays": ("print('a\\n\\n  b')", "ok", "a\n\n  b"),
    "unicode": ("print('π ≈ 3.14 😀')", "ok", "π ≈ 3.14 😀"),
    "lone surrogate": ("print('\\ud800')", "ok", "\\ud800"),
    "exception": ("1/0", "error", E + "ZeroDivisionError: division by zero"),
    "exception after output": ("print('lost')\n[][1]", "error", E + "IndexError: list index out of range"),
    "exception without message": ("raise ValueError", "error", E + "ValueError: "),
    "key error shows its repr": ("{}['a']", "error", E + "KeyError: 'a'"),
    "name error": ("print(y)", "error", E + "NameError: name 'y' is not defined"),
    "syntax error": ("print(", "error", E + "SyntaxError: '(' was never closed (<string>, line 1)"),
    "own exception": ("class E(Exception): pass\nraise E('m')", "error", E + "E: m"),
    "failed assertion": ("assert 1 == 2, 'no'", "error", E + "AssertionError: no"),
    "null byte in code": ("x='\0'", "error", None),
    "surrogate in a message": ("raise ValueError('\\ud800')", "error", E + "ValueError: \\ud800"),
    "output past sys.stdout": ("import os; os.write(2, b'x'); print(1)", "ok", "1"),
    "os._exit": ("import os; os._exit(0)", "killed", None),
    "fork without an end": ("import os\nif os.fork() == 0: os.abort()\nprint(1)", "ok", "1"),
    "own signal handler": (
        "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('caught'))\nos.kill(os.getpid(), 10)",
        "ok", "caught",
    ),
    "thread that outlives the block": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start(); print(1)", "ok", "1",
    ),
    "bytes that are no text": ("import sys; sys.stdout.buffer.write(b'a\\xff')", "ok", "a\ufffd"),
    "surrogate in code": ("x='\ud800'", "error", None),
    "broken __str__": ("class E(Exception):\n def __str__(self): 1/0\nraise E", "error", E + "E: "),
    "sys.exit": ("print(1)\nimport sys; sys.exit()\nprint(2)", "ok", "1"),
    "sys.exit with a message": ("import sys; sys.exit('no')", "error", E + "SystemExit: no"),
    "keyboard interrupt": ("raise KeyboardInterrupt", "error", E + "KeyboardInterrupt: "),
    "input": ("input()", "error", E + "EOFError: EOF when reading a line"),
    "recursion": ("def f(): return f()\nf()", "error", E + "RecursionError: maximum recursion depth exceeded"),
    "closed stdout": ("import sys; sys.stdout.close(); print()", "error", E + CLOSED),
    "main guard": ("if __name__ == '__main__': print('main')", "ok", "main"),
    "libraries": ("import sympy, numpy, math\nprint(sympy.sqrt(8), numpy.arange(3).sum())", "ok", "2*sqrt(2) 3"),
    "time-out": ("print('lost', flush=True)\nwhile True: pass", "timeout", TIMEOUT_TEXT),
    "sleep": ("import time; time.sleep(60)", "timeout", TIMEOUT_TEXT),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRE)
async def test_wire_format(session: Session, name: str):
    code, status, output = WIRE[name]
    result = await session.run(code)
    assert result.status == status
    if output is None:
        assert result.output.startswith("Code execute Error: ")
    else:
        assert result.output == output
    assert result.seconds >= 0


# What code prints in a session like those of the published executor, and in others.
WORLDS = {
    "main guard": ("def main():\n    print('in main')\n\nif __name__ == '__main__':\n    main()", "", "in main"),
    "name": ("print(__name__)", "builtins", "__main__"),
    "class": ("class A: pass\nprint(A)", "<class 'A'>", "<class '__main__.A'>"),
    "documentation": ("print(__doc__ is None)", "False", "True"),
    "pretty printing": (
        "from sympy import pprint, symbols\nx = symbols('x'); pprint(x**2/2)",
        "2\nx \n--\n2", "2\nx \n──\n2",
    ),
    "encoding": ("import sys; print(sys.stdout.encoding)", "None", "utf-8"),
    "characters": ("print('π')", "π", "π"),
    "own time-out": ("raise TimeoutError('mine')", "Code execute time out: mine", E + "TimeoutError: mine"),
    "time-out without message": ("raise TimeoutError", "Code execute time out: ", E + "TimeoutError: "),
    "kind of time-out": (
        "class Late(TimeoutError): pass\nraise Late('a: b')", "Code execute time out: a: b", E + "Late: a: b",
    ),
    "another library's time-out": (
        "import concurrent.futures as f\nraise f.TimeoutError(3)", "Code execute time out: 3", E + "TimeoutError: 3",
    ),
    "error": ("1/0", E + "ZeroDivisionError: division by zero", E + "ZeroDivisionError: division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("as_published", [True, False])
async def test_the_world_that_code_sees(sandbox: Sandbox, name: str, as_published: bool):
    code, published, ours = WORLDS[name]
    if isinstance(sandbox, FusionSandbox):  # it imports sympy within the block, whatever else this machine does
        sandbox = FusionSandbox(sandbox._endpoint, Limits(timeout=30.0))
    async with sandbox.session(as_published=as_published) as session:
        first = await session.run(code)
        assert first.output == (published if as_published else ours)
        assert (await session.run(code)).output == first.output
        assert first.status == ("error" if first.output.startswith("Code execute ") else "ok")


async def test_names_persist_over_blocks(session: Session):
    await session.run("import math\nx = 20\ndef twice(n): return 2 * n")
    assert (await session.run("print(twice(x) + math.floor(2.5))")).output == "42"


async def test_names_defined_before_an_exception_stay(session: Session):
    await session.run("x = 1\n1/0")
    assert (await session.run("print(x)")).output == "1"


async def test_soft_timeout_keeps_names(session: Session):
    await session.run("x = 1")
    assert (await session.run("y = 2\nwhile True: pass")).status == "timeout"
    assert (await session.run("print(x)")).output == "1"


UNREPORTED = {
    "exception": "print('lost')\n1/0",
    "exception, stream kept": "import sys\nout = sys.stdout\nprint('lost')\n1/0",
    "exception, stream replaced": "import io, sys\nsys.stdout = io.TextIOWrapper(io.FileIO(1, 'w', closefd=False))\n"
    "print('lost')\n1/0",
    "printed on the way out": "try: 1/0\nfinally: print('lost')",
    "exit": "print('lost')\nraise SystemExit(1)",
    "time-out": "print('lost')\nwhile True: pass",
    "memory": "print('lost')\nx = bytearray(1 << 45)",
}


@pytest.mark.parametrize("name", UNREPORTED)
async def test_what_a_block_printed_in_vain_is_not_the_next_blocks(session: Session, name: str):
    result = await session.run(UNREPORTED[name])
    assert result.status != "ok"
    assert "lost" not in result.output
    assert (await session.run("print(1)")).output == "1"


async def test_sessions_do_not_share_names(sandbox: Sandbox):
    async with sandbox.session() as one, sandbox.session() as two:
        await one.run("x = 1; import math; math.pi = 3")
        assert (await two.run("print('x' in globals())")).output == "False"
        assert (await two.run("import math; print(math.pi)")).output.startswith("3.14")


async def test_a_died_session_is_replayed(session: Session):
    await session.run("x = [1]")
    await session.run("1/0; x.append(2)")
    died = await session.run("import os; os._exit(3)")
    assert died.status == "killed"
    assert died.output.startswith("Code execute Error: ")
    assert (await session.run("print(x)")).output == "[1]"


async def test_long_output_is_cut_in_the_middle(session: Session):
    result = await session.run("print('start'); print('é' * 200_000); print('end')")
    assert result.status == "ok"
    assert result.output.startswith("start\né")
    assert result.output.endswith("é\nend")
    assert re.search(r"\[\d+ (bytes|characters) of output cut\]", result.output)
    assert "\ufffd" not in result.output
    assert len(result.output) < 50_000


async def test_random_is_the_same_in_every_session(sandbox: Sandbox):
    code = "import random, numpy\nprint(random.random(), numpy.random.rand(), hash('a'), list({'a', 'b', 'c'}))"
    outputs = []
    for _ in range(2):
        async with sandbox.session() as opened:
            outputs.append((await opened.run(code)).output)
    assert outputs[0] == outputs[1]


async def test_environment_is_empty(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "secret" not in (await session.run("import os; print(dict(os.environ))")).output


async def test_many_sessions_at_once(sandbox: Sandbox):
    async def one(number: int) -> list[str]:
        async with sandbox.session() as opened:
            await opened.run(f"x = {number}")
            return [(await opened.run(f"x += {i}; print(x)")).output for i in range(3)]

    outputs = await asyncio.gather(*(one(n) for n in range(12)))
    assert outputs == [[str(n), str(n + 1), str(n + 3)] for n in range(12)]


async def test_concurrent_blocks_of_a_session_run_in_order(session: Session):
    await session.run("x = []")
    await asyncio.gather(*(session.run(f"x.append({i})") for i in range(8)))
    assert (await session.run("print(x)")).output == str(list(range(8)))


async def test_it_says_that_code_can_run(sandbox: Sandbox):
    await sandbox.check()


async def test_a_closed_session_says_so(sandbox: Sandbox):
    opened = sandbox.session()
    await opened.close()
    await opened.close()
    result = await opened.run("print(1)")
    assert (result.status, result.output) == ("sandbox_error", "")
    assert "closed" in result.message


async def test_satisfies_the_protocol(sandbox: Sandbox):
    assert isinstance(sandbox, Sandbox)
    assert isinstance(sandbox.session(), Session)
