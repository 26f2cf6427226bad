"""The frame of the `genprm` command, driven with a command that the tests register."""

import contextlib
import dataclasses
import logging
import os
import pty
import signal
import subprocess
import sys
import termios
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli import console
from genprm_trl.cli import main as cli
from genprm_trl.errors import ConfigError
from genprm_trl.options.parser import OptionParser

JUDGE = '''
"""Judge a file.

Examples:
  genprm judge solutions.jsonl --model DIR
"""

import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, DataError


@dataclass
class JudgeOptions:
    file: str = field(metadata={"help": "Solutions to judge.", "positional": True})
    model: str = field(metadata={"help": "Model directory."})
    n: int = field(default=1, metadata={"help": "Chains a solution."})
    threshold: float = field(default=0.5, metadata={"help": "Lowest reward of a right step."})
    mode: Literal["full", "direct"] = field(default="full", metadata={"help": "What the verifier writes."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Tokens a step."})
    skip_bad_rows: bool = field(default=False, metadata={"help": "Go on after a broken row."})
    resume: bool = field(default=True, metadata={"help": "Keep what is there."})
    tags: list[str] | None = field(default=None, metadata={"help": "Tags."})

    def __post_init__(self):
        if self.n < 1:
            raise ValueError("n must be at least 1")


def run(options: JudgeOptions) -> int | None:
    log = logging.getLogger("genprm_trl.judge")
    if options.model == "echo":
        print(options)
    elif options.model == "bad-row":
        raise DataError("is missing", file=options.file, row=3, field="steps")
    elif options.model == "bug":
        raise RuntimeError("a bug")
    elif options.model == "three":
        return 3
    elif options.model == "log":
        log.debug("a detail"), log.info("a remark"), log.warning("a warning"), log.error("an error")
        logging.getLogger("other").info("another's remark"), logging.getLogger("other").warning("another's warning")
        for _ in console.progress(range(3), desc="judging"):
            pass
        print("the result")
    elif options.model == "slow":
        console.set_kept("2 verdicts are in out.jsonl")
        print("started", flush=True)
        time.sleep(60)
    elif options.model == "chatty":
        for i in range(100_000):
            print(i)
    elif options.model == "full-disk":
        console.set_kept("2 verdicts are in out.jsonl")
        Path("/dev/full").write_text("a verdict")
    elif options.model == "no-right":
        Path("/proc/sys/kernel/ostype").write_text("mine")  # refused to root, too
    elif options.model == "full-file":
        from genprm_trl.rows.jsonl import write_text

        write_text("/sys/verdicts.jsonl", "a verdict")  # refused to root, too
    elif options.model == "saver":
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    elif options.model == "message":
        sys.exit("another program's last words")
    elif options.model == "own-pipe":
        raise BrokenPipeError("a worker died")
'''

TRAIN = '''
"""Train."""

from dataclasses import dataclass, field

from trl import SFTConfig


@dataclass
class TrainOptions:
    data: str = field(metadata={"help": "Rows to train on.", "positional": True})


def run(options: TrainOptions, training: SFTConfig) -> None:
    print(options.data, training.learning_rate, training.max_length, training.report_to, training.lr_scheduler_kwargs)
'''

COMMAND = """
import sys
sys.path.insert(0, {directory!r})
from genprm_trl.cli import main as cli
cli.COMMANDS["judge"] = cli.Command("judge_command", "judge a file")
raise SystemExit(cli.main())
"""


@pytest.fixture(autouse=True)
def commands(tmp_path, monkeypatch):
    """Registers the commands, works in an empty directory, and puts back what a command line sets up."""
    modules = tmp_path / "modules"
    modules.mkdir()
    for name, source in (("judge", JUDGE), ("train", TRAIN)):
        (modules / f"{name}_command.py").write_text(source)
        monkeypatch.delitem(sys.modules, f"{name}_command", raising=False)
        monkeypatch.setitem(cli.COMMANDS, name, cli.Command(f"{name}_command", f"{name} a file"))
    (modules / "genprm_command.py").write_text(COMMAND.format(directory=str(modules)))
    monkeypatch.syspath_prepend(modules)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GENPRM_DEBUG", raising=False)

    root, ours = logging.getLogger(), logging.getLogger("genprm_trl")
    before = (dict(os.environ), list(root.handlers), root.level, ours.level, warnings.showwarning)
    yield
    logging.captureWarnings(False)
    environment, root.handlers, root_level, our_level, warnings.showwarning = before
    root.setLevel(root_level)
    ours.setLevel(our_level)
    os.environ.clear()
    os.environ.update(environment)
    console.set_kept(None)


@pytest.fixture
def genprm(capsys):
    """Runs a command line in this process: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def genprm_process(tmp_path, *words: str, **settings) -> subprocess.Popen:
    """Starts a command line in a separate process, for what has to do with signals and pipes."""
    program = [sys.executable, str(tmp_path / "modules" / "genprm_command.py"), *words]
    # A test run in the background of a shell ignores SIGINT, and its children would, too.
    settings.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def config(tmp_path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


# --- finding a command ---


def test_help_lists_every_command(genprm):
    code, out, _ = genprm("--help")
    assert code == 0
    for name, command in cli.COMMANDS.items():
        assert f"{name} " in out
        assert command.summary in out
    assert genprm() == (0, out, "")


def test_help_needs_neither_torch_nor_the_commands_modules(tmp_path):
    program = (
        "import sys; from genprm_trl.cli.main import COMMANDS, main; code = main(['--help']);"
        "loaded = [m for m in ('torch', 'transformers', 'trl') if m in sys.modules];"
        "loaded += [c.module for c in COMMANDS.values() if c.module in sys.modules];"
        "sys.exit(str(loaded) if loaded or code else 0)"
    )
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL).returncode == 0


# Runs command lines in one process, and names what it has imported after each that it should not have.
HELPS = """
import sys
from genprm_trl.cli.main import main
for name in sys.argv[1:]:
    code = main([name, "--help"])
    if code or (loaded := {"torch", "transformers", "trl", "lm_eval"} & sys.modules.keys()):
        sys.exit(f"{name}: {code} {loaded}")
"""


def test_help_of_a_command_imports_nothing_slow():
    names = [
        name for name, command in cli.COMMANDS.items() if not command.help_is_kept and name not in ("judge", "train")
    ]
    done = subprocess.run([sys.executable, "-c", HELPS, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: genprm ") == len(names)


def test_help_that_is_another_packages_is_kept(genprm, monkeypatch, tmp_path):
    names = [name for name, command in cli.COMMANDS.items() if command.help_is_kept]
    assert names == ["grpo", "sft", "prm", "implicit", "ppm", "dpo", "lm-eval"]
    shown = "".join(genprm(name, "--help")[1] for name in names)
    again = subprocess.run([sys.executable, "-c", HELPS, *names], capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, shown), again.stderr
    monkeypatch.setenv("COLUMNS", "79")
    assert genprm("sft", "-h")[1] != shown
    assert len(list((tmp_path / "cache").rglob("sft-*.txt"))) == 1  # the last one


@pytest.mark.parametrize("cache", ["/proc/cache", "/dev/null"])
def test_help_needs_no_cache_directory(genprm, monkeypatch, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    code, out, err = genprm("lm-eval", "--help")
    assert (code, err) == (0, "")
    assert "Language Model Evaluation Harness" in out


@pytest.mark.parametrize("named", ["", "cache"])
def test_help_is_not_kept_in_the_working_directory(genprm, monkeypatch, tmp_path, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setattr("os.path.expanduser", str)  # a user without a home
    code, out, err = genprm("lm-eval", "--help")
    assert (code, err) == (0, "")
    assert "Language Model Evaluation Harness" in out
    assert list(tmp_path.rglob("*.txt")) == []


def test_reading_options_does_not_need_torch(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'modules')!r}); from genprm_trl.cli import main as cli;"
        "cli.COMMANDS['judge'] = cli.Command('judge_command', ''); code = cli.main(['judge', 'f', '--model', 'echo']);"
        "sys.exit('torch' in sys.modules or code)"
    )
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL).returncode == 0


def test_version_names_what_a_bug_report_needs(genprm):
    code, out, _ = genprm("--version")
    assert code == 0
    assert out.startswith("genprm-trl ")
    assert "trl " in out
    assert "torch " in out


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "genprm_trl", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("genprm-trl ")


def test_unknown_command(genprm):
    code, out, err = genprm("juge", "file")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "genprm: error: unknown command 'juge', did you mean 'judge'?"
    assert err.startswith("usage: genprm ")


def test_unknown_global_option(genprm):
    code, _, err = genprm("--frobnicate", "judge")
    assert code == 2
    assert "--frobnicate" in err


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name not in ("judge", "train")])
def test_every_command_explains_each_of_its_options(genprm, name):
    code, out, _ = genprm(name, "--help")
    assert code == 0
    assert f"usage: genprm {name}" in out


def test_a_run_without_annotated_options_is_refused(tmp_path, genprm):
    (tmp_path / "modules" / "judge_command.py").write_text("def run(options): ...")
    with pytest.raises(TypeError, match=r"judge_command\.run must annotate"):
        genprm("judge", "f")


# --- options ---


def test_help_of_a_command(genprm):
    code, out, _ = genprm("judge", "--help")
    assert code == 0
    assert out.startswith("usage: genprm judge FILE --model MODEL [--config FILE] [options]\n")
    assert "Examples:\n  genprm judge solutions.jsonl --model DIR" in out
    assert "Lowest reward of a right step. (default: 0.5)" in out
    assert "--max_new_tokens MAX_NEW_TOKENS" in out
    assert "Tokens a step.\n" in out  # without "(default: None)"
    assert "--no_resume" in out
    assert "Turn --resume off." in out


def test_options_of_every_kind(genprm):
    code, out, _ = genprm(
        *("judge", "f.jsonl", "--model", "echo", "--n=8", "--max-new-tokens", "9", "--no-resume", "--tags", "a", "b")
    )
    assert code == 0
    assert out.strip() == (
        "JudgeOptions(file='f.jsonl', model='echo', n=8, threshold=0.5, mode='full', max_new_tokens=9, "
        "skip_bad_rows=False, resume=False, tags=['a', 'b'])"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--skip-bad-rows", "f.jsonl"], "skip_bad_rows=True"),
        (["--skip_bad_rows", "true", "f.jsonl"], "skip_bad_rows=True"),
        (["--skip_bad_rows", "no", "f.jsonl"], "skip_bad_rows=False"),
        (["--skip_bad_rows=y", "f.jsonl"], "skip_bad_rows=True"),
        (["f.jsonl", "--skip-bad-rows"], "skip_bad_rows=True"),
        (["--skip-bad-rows", "--", "f.jsonl"], "skip_bad_rows=True"),
    ],
)
def test_a_switch_does_not_swallow_the_file(genprm, words, expected):
    code, out, _ = genprm("judge", "--model", "echo", *words)
    assert code == 0
    assert "file='f.jsonl'" in out
    assert expected in out


def test_a_file_named_like_an_option(genprm):
    code, out, _ = genprm("judge", "--model", "echo", "--", "--file")
    assert code == 0
    assert "file='--file'" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: FILE, --model"),
        (["f"], "the following arguments are required: --model"),
        (["f", "--model"], "argument --model: expected one argument"),
        (["f", "--modell", "m"], "unknown option --modell, did you mean '--model' or '--mode'?"),
        (["f", "--frobnicate=1", "--model", "m"], "unknown option --frobnicate"),
        (["f", "--model", "m", "-x"], "unrecognized arguments: -x"),
        (["f", "g", "--model", "m"], "unrecognized arguments: g"),
        (["f", "--mod", "m"], "unknown option --mod, did you mean"),  # no abbreviations
        (["f", "--model", "m", "--n", "two"], "argument --n: invalid int value: 'two'"),
        (["f", "--model", "m", "--mode", "fast"], "argument --mode: invalid choice: 'fast'"),
        (["f", "--model", "m", "--config"], "argument --config: expected one file"),
    ],
)
def test_a_wrong_command_line(genprm, words, message):
    code, out, err = genprm("judge", *words)
    assert (code, out) == (2, "")
    usage, error = err.splitlines()
    assert usage == "usage: genprm judge FILE --model MODEL [--config FILE] [options]"
    assert error.startswith(f"genprm judge: error: {message}")
    assert error.endswith("(see genprm judge --help)")


def test_a_check_of_the_options_own(genprm):
    assert genprm("judge", "f", "--model", "m", "--n", "0") == (2, "", "genprm judge: error: n must be at least 1\n")


def test_arguments_file_beside_the_executable_is_not_read(genprm, monkeypatch, tmp_path):
    (tmp_path / "tool.args").write_text("--n 7")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tool")])
    code, out, _ = genprm("judge", "f", "--model", "echo")
    assert code == 0
    assert "n=1" in out


# --- configuration files ---


def test_config_gives_values_and_the_command_line_wins(genprm, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_COLOUR", raising=False)
    path = config(
        tmp_path,
        "env: {JUDGE_COLOUR: blue}\nfile: c.jsonl\nmodel: echo\nn: 4\nthreshold: 1e-3\nmode: direct\n"
        "max_new_tokens: null\nskip_bad_rows: yes\nresume: false\ntags: [a, 2]\n",
    )
    code, out, _ = genprm("judge", "--config", path, "--n", "5")
    assert code == 0
    assert out.strip() == (
        "JudgeOptions(file='c.jsonl', model='echo', n=5, threshold=0.001, mode='direct', max_new_tokens=None, "
        "skip_bad_rows=True, resume=False, tags=['a', '2'])"
    )
    assert os.environ["JUDGE_COLOUR"] == "blue"
    assert "file='other.jsonl'" in genprm("judge", "other.jsonl", f"--config={path}")[1]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("modl: x", ", key 'modl'", "genprm judge has no such option, did you mean 'model' or 'mode'?"),
        ("config: x", ", key 'config'", "genprm judge has no such option"),
        ("n: two", ", key 'n'", "invalid int value: 'two'"),
        ("n: 1.5", ", key 'n'", "invalid int value: '1.5'"),
        ("n: true", ", key 'n'", "invalid int value: 'True'"),
        ("n: [1]", ", key 'n'", "expected one value, not [1]"),
        ("n:", ", key 'n'", "must not be empty"),
        ("threshold: high", ", key 'threshold'", "invalid float value: 'high'"),
        ("mode: fast", ", key 'mode'", "invalid choice: 'fast' (choose from full, direct)"),
        ("model: yes", ", key 'model'", "expected text, not True"),
        ("model: {a: 1}", ", key 'model'", "expected one value, not {'a': 1}"),
        ("tags: a", ", key 'tags'", "expected a list, not 'a'"),
        ("tags: [[a]]", ", key 'tags'", "expected one value, not ['a']"),
        (
            "skip_bad_rows: 7",
            ", key 'skip_bad_rows'",
            "Truthy value expected: got 7 but expected one of yes/no, true/false, t/f, y/n, 1/0 (case insensitive).",
        ),
        ("env: x", ", key 'env'", "must be a mapping of environment variables to values"),
        ("- n", "", "must hold a mapping of option names to values"),
        ("", "", "must hold a mapping of option names to values"),
        ("n: 1\nmodel: a: b", ", line 2", "is not valid YAML: mapping values are not allowed here"),
    ],
)
def test_a_wrong_config(genprm, tmp_path, text, where, message):
    path = config(tmp_path, text)
    expected = f"genprm judge: error: config file {path}{where}: {message}\n"
    code, out, err = genprm("judge", "f", "--model", "echo", "--config", path)
    # Python 3.12 lists choices without quotes.
    assert (code, out, err.replace("'full', 'direct'", "full, direct")) == (2, "", expected)


def test_a_config_that_cannot_be_read(genprm, tmp_path):
    missing, binary = str(tmp_path / "missing.yaml"), tmp_path / "binary.yaml"
    binary.write_bytes(b"n: \xff\xfe")
    assert genprm("judge", "--config", missing)[::2] == (
        2,
        f"genprm judge: error: config file {missing}: cannot be read: No such file or directory\n",
    )
    assert genprm("judge", "--config", str(tmp_path))[2].endswith("cannot be read: Is a directory\n")
    assert genprm("judge", "--config", str(binary))[2].endswith("is not UTF-8 text\n")


def test_a_command_with_a_trainers_options(genprm, tmp_path):
    path = config(
        tmp_path,
        "data: rows.jsonl\nlearning_rate: 1e-5\nmax_length: 512\nreport_to: [tensorboard]\n"
        "lr_scheduler_kwargs: {num_cycles: 2}\n",
    )
    code, out, err = genprm("train", "--config", path, "--learning_rate", "2e-6", "--bf16", "false")
    assert code == 0, err
    assert out.strip() == "rows.jsonl 2e-06 512 ['tensorboard'] {'num_cycles': 2}"

    code, out, _ = genprm("train", "--help")
    assert code == 0
    assert "--per_device_train_batch_size" in out
    assert out.count("--debug") == 1  # the trainer's own option keeps the name

    code, _, err = genprm("train", "rows.jsonl", "--gradient_accumulation_step", "2")
    assert code == 2
    assert "did you mean '--gradient_accumulation_steps'" in err


# --- what happens when it runs ---


def test_exit_code_of_the_command(genprm):
    assert genprm("judge", "f", "--model", "three")[0] == 3


def test_an_error_for_the_user_is_one_line(genprm, monkeypatch):
    line = "genprm judge: error: f.jsonl, row 3, field 'steps': is missing\n"
    words = ("judge", "f.jsonl", "--model", "bad-row")
    assert genprm(*words) == (2, "", line)
    for debugged in (genprm(*words, "--debug"), genprm("--debug", *words)):
        assert debugged[0] == 2
        assert debugged[2].startswith("Traceback")
        assert debugged[2].endswith(line)
    monkeypatch.setenv("GENPRM_DEBUG", "1")
    assert genprm(*words)[2].startswith("Traceback")


def test_a_bug_shows_its_traceback(tmp_path):
    process = genprm_process(tmp_path, "judge", "f", "--model", "bug")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.endswith("RuntimeError: a bug\n")


def test_a_full_disk_is_no_bug(tmp_path):
    line = "genprm judge: error: No space left on device; 2 verdicts are in out.jsonl\n"
    for more, traced in (([], False), (["--debug"], True)):
        process = genprm_process(tmp_path, "judge", "f", "--model", "full-disk", *more)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err.endswith(line)
        assert ("Traceback" in err) is traced
        assert traced or err == line


def test_a_full_disk_below_stdout(tmp_path):
    program = [sys.executable, str(tmp_path / "modules" / "genprm_command.py"), "judge", "f", "--model", "chatty"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "genprm judge: error: No space left on device\n")


def test_a_right_that_is_missing_names_the_file(genprm):
    line = "genprm judge: error: /proc/sys/kernel/ostype: Permission denied\n"
    assert genprm("judge", "f", "--model", "no-right") == (1, "", line)


def test_the_last_words_of_another_program_are_shown(genprm):
    assert genprm("judge", "f", "--model", "message") == (1, "", "another program's last words\n")


def test_files_that_the_machine_refuses_end_with_code_1(genprm):
    code, _, err = genprm("judge", "f", "--model", "full-file")
    assert code == 1
    assert err.startswith("genprm judge: error: /sys/verdicts.jsonl: cannot be written: ")
    assert err.count("\n") == 1
    assert genprm("judge", "f", "--model", "saver") == (1, "", "genprm judge: error: No space left on device\n")


def test_sigterm_says_what_was_kept(tmp_path):
    process = genprm_process(tmp_path, "judge", "f", "--model", "slow")
    assert process.stdout.readline() == "started\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err == "\ngenprm judge: terminated; 2 verdicts are in out.jsonl\n"


def test_interrupt_says_what_was_kept(tmp_path):
    process = genprm_process(tmp_path, "judge", "f", "--model", "slow")
    assert process.stdout.readline() == "started\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "\ngenprm judge: interrupted; 2 verdicts are in out.jsonl\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["judge", "f", "--model", "chatty"], ["judge", "--help"], ["--help"]])
def test_a_closed_stdout_ends_it_quietly(tmp_path, words, unbuffered):
    # Nobody reads: the pipe is closed before the command has started to write.
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, str(tmp_path / "modules" / "genprm_command.py"), *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert done.stderr == ""
    if unbuffered and "--help" in words:
        assert done.returncode == 0  # argparse itself lets the failed write pass
    else:
        assert done.returncode == 141


def test_a_broken_pipe_of_our_own_is_a_bug(tmp_path):
    process = genprm_process(tmp_path, "judge", "f", "--model", "own-pipe")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.endswith("BrokenPipeError: a worker died\n")


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        ([], ["a remark", "warning: a warning", "another's warning", "judging"], ["a detail", "another's remark"]),
        (["-v"], ["a detail", "a remark", "another's remark", "judging"], []),
        (["-q"], ["error: an error"], ["a remark", "a warning", "another's warning", "judging"]),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_log_lines_go_to_stderr_as_asked(tmp_path, words, shown, hidden, before):
    command = ["judge", "f", "--model", "log"]
    process = genprm_process(tmp_path, *([*words, *command] if before else [*command, *words]))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "the result\n")
    assert [text for text in shown if text not in err] == []
    assert [text for text in hidden if text in err] == []


def test_only_the_first_of_several_processes_speaks(tmp_path):
    process = genprm_process(tmp_path, "judge", "f", "--model", "log", env={**os.environ, "RANK": "1"})
    _, err = process.communicate(timeout=60)
    assert err == "error: an error\n"


def test_a_bar_in_a_log_file_is_not_redrawn_all_the_time(tmp_path):
    program = (
        "import time; from genprm_trl.cli import console; console.configure();"
        "[time.sleep(0.02) for _ in console.progress(range(50), desc='judging')]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.count("judging") == 2  # its start and its end


def test_a_log_file_has_lines_and_no_carriage_returns(tmp_path):
    program = (
        "import logging, time; from genprm_trl.cli import console; console.configure();"
        "from tqdm.auto import tqdm; log = logging.getLogger('genprm_trl')\n"
        "with console.progress(total=3, desc='judging', mininterval=0) as bar, tqdm(total=2, desc='inner') as inner:\n"
        "    for i in range(3): bar.update(); log.info('remark %d', i)\n"
        "    inner.update(2)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    text = done.stderr.decode()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("remark")] == ["remark 0", "remark 1", "remark 2"]
    assert all(line.startswith(("remark", "judging: ", "inner: ")) for line in lines)
    assert any(line.startswith("judging: 100%") for line in lines)


@pytest.mark.parametrize("no_color", [True, False])
def test_a_terminal_gets_a_bar_and_no_colours(tmp_path, no_color):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    environment = {**os.environ, "TERM": "xterm-256color", **({"NO_COLOR": "1"} if no_color else {})}
    program = [sys.executable, str(tmp_path / "modules" / "genprm_command.py"), "judge", "f", "--model", "log"]
    done = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while piece := os.read(ours, 65536):
            text += piece
    os.close(ours)
    assert done.wait(60) == 0
    assert b"\rjudging" in text
    assert b"\x1b[" not in text


def test_a_mapping_is_given_as_json_or_as_yaml(tmp_path, capsys):
    @dataclasses.dataclass
    class Options:
        extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def read(*words: str) -> dict[str, Any]:
        [options] = OptionParser([Options], prog="x").parse(words)
        return options.extra

    assert read() == {}
    assert read("--extra", '{"a": 1, "b": [2]}') == {"a": 1, "b": [2]}
    assert read("--config", config(tmp_path, "extra: {a: 1, b: [2]}")) == {"a": 1, "b": [2]}
    for words in (["--extra", "[1]"], ["--extra", "a=1"]):
        with pytest.raises(SystemExit):
            read(*words)
        assert f"argument --extra: '{words[1]}'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="key 'extra': 'a': is not valid JSON"):
        read("--config", config(tmp_path, "extra: a"))
