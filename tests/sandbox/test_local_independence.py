"""Sessions come from one warmed-up process, and yet nothing that one does is seen by another."""

import asyncio

from genprm_trl.sandbox import LocalSandbox

# Changes what sessions could share if they shared anything: modules, caches, generators, contexts, the process itself.
POLLUTE = """
import builtins, codecs, decimal, gc, locale, math, os, random, signal, sys, warnings, linecache, re, functools
import numpy, sympy, sympy.core.cache
math.pi, builtins.sum, sys.modules["json"] = 3, lambda _: 42, None
os.environ["LEAK"] = "1"; os.umask(0); os.mkdir("leak"); os.chdir("leak")
sys.path.insert(0, "/leak"); sys.setrecursionlimit(200); sys.set_int_max_str_digits(0)
random.seed(99); numpy.random.seed(99); sympy.core.random.seed(99)
numpy.set_printoptions(precision=1); numpy.seterr(all="raise"); numpy.add = numpy.subtract
sympy.sqrt = lambda x: "polluted"; sympy.Symbol.is_commutative = False
sympy.core.cache.clear_cache(); sympy.init_printing(order="rev-lex")
decimal.getcontext().prec = 3; warnings.simplefilter("error"); re.purge(); gc.disable()
signal.signal(signal.SIGUSR1, lambda *_: None); signal.setitimer(signal.ITIMER_PROF, 0.05)
sympy.Add.__str__ = lambda self: "polluted"
print("done")
"""
PROBE = """
import builtins, decimal, gc, json, math, os, random, signal, sys, warnings
import numpy, sympy
x = sympy.Symbol("x")
print(math.pi, sum([1]), dict(os.environ), os.getcwd(), os.listdir("."), oct(os.umask(0o77)))
print("/leak" in sys.path, sys.getrecursionlimit(), sys.get_int_max_str_digits(), gc.isenabled(), json.dumps(1))
print(random.random(), numpy.random.rand(), sympy.core.random.random(), hash("a"), decimal.getcontext().prec)
print(numpy.array([1 / 3]), numpy.geterr(), numpy.add(1, 2), sympy.sqrt(8))
print(x + 1, x.is_commutative, sympy.expand((x + 1) ** 2))
print(signal.getsignal(signal.SIGUSR1), signal.getitimer(signal.ITIMER_PROF), warnings.filters[0][0], sys.argv)
print(sorted(n for n in globals() if not n.startswith("__")))
"""


async def test_nothing_passes_from_session_to_session():
    async with LocalSandbox() as sandbox:
        async with sandbox.session() as first:
            before = await first.run(PROBE)
        assert before.status == "ok", before
        polluters = [sandbox.session() for _ in range(4)]
        for result in await asyncio.gather(*(p.run(POLLUTE) for p in polluters)):
            assert result.output == "done"
        probes = [sandbox.session() for _ in range(6)]  # from the pool and new, while the others still run
        for result in await asyncio.gather(*(p.run(PROBE) for p in probes)):
            assert result.output == before.output
        for session in (*polluters, *probes):
            await session.close()


async def test_a_replayed_session_has_the_same_random_numbers():
    draw = "import random, numpy\nprint(random.random(), numpy.random.rand())"
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        first, second = (await session.run(draw)).output, (await session.run(draw)).output
        await session.run("import os; os._exit(1)")
        third = (await session.run(draw)).output
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        assert [(await session.run(draw)).output for _ in range(3)] == [first, second, third]
    assert len({first, second, third}) == 3


async def test_seeds_differ():
    outputs = set()
    for seed in (0, 1):
        async with LocalSandbox(seed=seed) as sandbox, sandbox.session() as session:
            outputs.add(
                (await session.run("import random, numpy; print(random.random(), numpy.random.rand())")).output
            )
    assert len(outputs) == 2
