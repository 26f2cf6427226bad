"""`genprm rollout` and `genprm label` as a user runs them: kills, failures, bad input, a larger K, and memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.solutions import load_solutions
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.stages.file import StageSummary, stage_directory
from tests.helpers.coin_generator import CoinGenerator, rows, solution
from tests.helpers.kills import die_at

# The coin stands for a model; what is tested here is everything around one. benchmarks/labeling.py has a real one.
COIN = ["--model", "coin", "--backend", "tests.helpers.coin_generator:CoinGenerator", "-q"]
ROLL = ["--first_round", "4", "--keep", "6", "--give_up", "32", "--max_items", "4"]
LABEL = ["--k_hard", "16", "--k", "8", "--k_easy", "4", "--rollout_batch", "3", "--max_items", "4"]


def write(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


@pytest.fixture
def problems(tmp_path) -> Path:
    chances = [0, 5, 30, 50, 70, 100] * 5
    items = [{"problem": f"Chance {chance}: what is number {n}?", "answer": "42"} for n, chance in enumerate(chances)]
    return write(tmp_path / "problems.jsonl", items)


@pytest.fixture
def solutions(tmp_path) -> Path:
    rng = random.Random(4)
    items = []
    for n in range(12):
        for number in range(rng.randint(1, 3)):
            effects = " ".join(
                rng.choices(["well", "worse", "badly", "hopelessly"], [6, 2, 1, 1], k=rng.randint(1, 4))
            )
            items.append(solution(f"p{n}-{number}", effects, rng.random() < 0.5, problem=str(n)))
    return write(tmp_path / "solutions.jsonl", rows(*items))


def files(output: Path) -> tuple[bytes, bytes]:
    return output.read_bytes(), (stage_directory(output) / "summary.json").read_bytes()


def in_child(words: list[str], die: int = 0, torn: bool = False) -> int:
    """Runs a command in a fork of this process, which has everything imported. Its exit code; a signal is negative."""

    def run() -> None:
        if die:
            die_at(die, torn=torn)
        os._exit(main(words))

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


@pytest.mark.parametrize("command", ["rollout", "label"])
def test_what_is_left_of_an_item_is_not_used_once_its_answer_is_corrected(command, tmp_path):
    problem = "Chance 30: what is number 1?"

    def words(answer: str, output: str) -> list[str]:
        item = {"problem": problem, "answer": answer}
        if command == "rollout":
            data = write(tmp_path / "data.jsonl", [item])
            return ["rollout", str(data), *ROLL, *COIN, "--output", str(tmp_path / output)]
        data = write(tmp_path / "data.jsonl", [{**rows(solution("a", "well well", True))[0], **item}])
        return ["label", str(data), *LABEL, *COIN, "--output", str(tmp_path / output)]

    assert in_child(words("43", "killed.jsonl"), 2) == -signal.SIGKILL
    assert (stage_directory(tmp_path / "killed.jsonl") / "partial.jsonl").read_text().count("\n") == 2
    assert main(words("42", "killed.jsonl")) == 0
    assert main(words("42", "fresh.jsonl")) == 0
    assert files(tmp_path / "killed.jsonl") == files(tmp_path / "fresh.jsonl")


@pytest.mark.parametrize("command", ["rollout", "label"])
def test_killed_at_twenty_random_points_it_ends_with_the_same_output(command, problems, solutions, tmp_path):
    words = ["rollout", str(problems), *ROLL] if command == "rollout" else ["label", str(solutions), *LABEL]
    reference, output = tmp_path / "reference.jsonl", tmp_path / "killed.jsonl"
    assert main([*words, *COIN, "--output", str(reference)]) == 0
    assert not (stage_directory(reference) / "partial.jsonl").exists()
    words += [*COIN, "--output", str(output)]
    rng = random.Random(20)
    kills = 0
    for _ in range(20):
        # Lines of the journal and of partial results alike.
        point = rng.randint(1, 4 if command == "rollout" else 20)
        code = in_child(words, point, torn=rng.random() < 0.4)
        if code == 0:  # finished before that many lines
            assert files(output) == files(reference)
            output.unlink()
            for file in stage_directory(output).iterdir():
                file.unlink()
            continue
        assert code == -signal.SIGKILL
        assert not output.exists()
        kills += 1
    assert kills >= 18
    assert main(words) == 0
    assert files(output) == files(reference)


def test_the_order_of_work_changes_nothing(solutions, problems, tmp_path):
    for command, file, options in (("rollout", problems, ROLL), ("label", solutions, LABEL)):
        outputs = []
        for n, bounds in enumerate((["1", "1"], ["64", "256"])):
            output = tmp_path / f"{command}{n}.jsonl"
            words = [command, str(file), *options[:-2], "--max_items", bounds[0], "--max_requests", bounds[1]]
            assert main([*words, *COIN, "--output", str(output)]) == 0
            outputs.append(files(output))
        assert outputs[0] == outputs[1]


def test_from_problems_to_labels(problems, tmp_path, capsys):
    rollouts, labels = tmp_path / "rollouts.jsonl", tmp_path / "labels.jsonl"
    assert main(["rollout", str(problems), *ROLL, *COIN, "--output", str(rollouts)]) == 0
    out = capsys.readouterr().out
    summary = StageSummary.load(rollouts)
    assert summary.items == 30
    without = [summary.dropped[f"problems_without_a_{kind}_solution"] for kind in ("right", "wrong")]
    assert (min(without), sum(without)) == (5, 30 - summary.counts["problems_kept"])
    assert f"problems           30, of which {30 - sum(without)} are kept" in out
    assert f"tokens generated   {int(summary.counts['tokens']):,}" in out

    assert main(["label", str(rollouts), *LABEL, *COIN, "--output", str(labels)]) == 0
    out = capsys.readouterr().out
    labelled, summary = load_solutions(str(labels)), StageSummary.load(labels)
    assert [s.id for s in labelled] == [s.id for s in load_solutions(str(rollouts))]
    wrong = sum(s.label >= 0 for s in labelled)
    assert f"solutions          {len(labelled)}, of which {wrong} have a wrong step" in out
    for item in labelled:
        assert item.final_answer_correct or item.label >= 0  # a wrong answer comes from a wrong step
        assert item.extra["labelled_by"]["completion_model"] == item.extra["rollout"]["policy"] == "coin"
        assert item.extra["labelled_by"]["settings"] != item.extra["rollout"]["settings"]
        assert item.label == (item.extra["labels"].index(False) if False in item.extra["labels"] else -1)
    assert summary.counts["rollouts"] * 7 == summary.counts["tokens"]


def test_the_labels_are_read_by_datasets(solutions, tmp_path):
    import datasets

    output = tmp_path / "labels.jsonl"
    assert main(["label", str(solutions), *LABEL, *COIN, "--output", str(output)]) == 0
    loaded = datasets.load_dataset("json", data_files=str(output), split="train", cache_dir=str(tmp_path / "cache"))
    again = load_solutions(loaded)
    assert [(s.label, s.extra["labels"]) for s in again] == [
        (s.label, s.extra["labels"]) for s in load_solutions(str(output))
    ]


@pytest.mark.parametrize(
    ("chance", "rule", "warned"), [(20, "rpe", True), (95, "rpe", False), (50, "hard", False), (2, "hard", True)]
)
def test_labels_that_are_noise_for_the_most_part_are_warned_of(chance, rule, warned, tmp_path, caplog, capsys):
    weak = [solution(f"s{n}", "well well", True, chance, problem=str(n)) for n in range(6)]
    solved = solution("solved", "well well", True, 100)  # one problem does not decide it
    path = write(tmp_path / "solutions.jsonl", rows(*weak, solved))
    rollouts = ["--k_hard", "16", "--k", "16", "--k_easy", "16"]
    words = ["label", str(path), "--rule", rule, *rollouts, *COIN[:-1]]  # not quiet
    assert main([*words, "--output", str(tmp_path / "labels.jsonl")]) == 0
    assert (f"The rule {rule} does not fit these estimates" in caplog.text) == warned
    assert ("Use --rule hard" in caplog.text) == (warned and rule != "hard")
    rolled = [labelled.extra["monte_carlo"]["initial"] for labelled in load_solutions(str(tmp_path / "labels.jsonl"))]
    initial = [bits.count("1") / len(bits) for bits in rolled]
    share = f"{100 * sum(initial) / len(initial):.1f} % of the problems"
    assert f"solved at a try    {share}" in capsys.readouterr().out
    assert (f"The completion model solves {share} at a try, and succeeds so seldom on " in caplog.text) == warned


def test_a_larger_k_takes_up_an_earlier_labelling(solutions, tmp_path, capsys):
    small, large, whole = (tmp_path / f"{name}.jsonl" for name in ("small", "large", "whole"))
    assert main(["label", str(solutions), *LABEL, *COIN, "--output", str(small)]) == 0
    words = ["label", str(solutions), "--k_hard", "32", "--k", "16", "--k_easy", "8", *COIN]
    assert main([*words, "--output", str(whole)]) == 0
    capsys.readouterr()
    assert main([*words, "--output", str(large), "--estimates", str(small)]) == 0
    out = capsys.readouterr().out
    before, after, fresh = map(StageSummary.load, (small, large, whole))
    assert after.counts["rollouts_reused"] > 0.9 * before.counts["rollouts"]  # all but what no label needs any more
    assert f"beside {int(after.counts['rollouts_reused']):,} of" in out
    assert after.counts["rollouts"] < fresh.counts["rollouts"]
    for one, other in zip(load_solutions(str(large)), load_solutions(str(whole)), strict=True):
        assert one.label == other.label
        assert one.extra["initial_mc"] == other.extra["initial_mc"]
    assert main([*words, "--seed", "1", "--output", str(tmp_path / "other.jsonl"), "--estimates", str(small)]) == 2
    assert "holds rollouts made with other settings (seed was 0 and is now 1)" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "other.jsonl"), "--estimates", str(solutions)]) == 2
    assert f"{solutions}: has no rollouts of `genprm label`" in capsys.readouterr().err


def test_verdicts_guide_the_search(tmp_path, capsys):
    binary, guided, few = (tmp_path / f"{name}.jsonl" for name in ("binary", "guided", "few"))
    file, guide = tmp_path / "solutions.jsonl", tmp_path / "verdicts.jsonl"
    # Behind "hopelessly" nothing is reached any more.
    made = [solution(f"s{n}", "well " * n + "hopelessly " * (8 - n), False, problem=str(n)) for n in range(8)]
    write(file, rows(*made))

    def judge(wrong: dict[str, int]) -> None:
        """Verdicts, in the order in which they were finished."""
        verdicts = []
        for each in made[::-1]:
            if each.id in wrong:
                rewards = [float(t != wrong[each.id]) for t in range(8)]
                verdicts.append(Verdict(each.id, rewards, wrong[each.id], [], solution_digest=each.digest))
        write_jsonl(guide, verdicts)

    truth = {f"s{n}": n for n in range(8)}
    words = ["label", str(file), *LABEL, "--rule", "hard", *COIN]
    assert main([*words, "--search", "binary", "--output", str(binary)]) == 0
    words += ["--search", "guided", "--guide", str(guide)]
    judge({id: n for id, n in truth.items() if n < 7})
    assert main([*words, "--output", str(guided)]) == 2
    assert f"{guide}: holds no verdict on 's7'" in capsys.readouterr().err
    assert not guided.exists()
    assert main([*words, "--limit", "7", "--output", str(few)]) == 0  # that one is not asked for
    judge(truth)
    assert main([*words, "--output", str(guided)]) == 0
    assert [s.label for s in load_solutions(str(guided))] == [s.label for s in load_solutions(str(binary))]
    assert [s.label for s in load_solutions(str(guided))] == list(range(8))
    before, after = map(StageSummary.load, (binary, guided))
    assert after.counts["states_sampled"] == 8 + 2 * 8 - 2  # of the first and the last step one is known
    assert before.counts["states_sampled"] == 8 + 3 * 8
    assert after.counts["rollouts"] < before.counts["rollouts"]

    # Other verdicts would sample other prefixes.
    judge({**truth, "s3": 4})
    capsys.readouterr()
    assert main([*words, "--output", str(guided)]) == 2
    error = capsys.readouterr().err
    assert "guide was" in error
    assert f"or keep its rollouts with --estimates {guided}" in error


def test_estimates_of_another_answer_are_not_taken_up(solutions, tmp_path, capsys):
    before, after, whole = (tmp_path / f"{name}.jsonl" for name in ("before", "after", "whole"))
    assert main(["label", str(solutions), *LABEL, *COIN, "--output", str(before)]) == 0
    corrected = [replace(s, answer="13", final_answer_correct=None) for s in load_solutions(str(solutions))]
    words = ["label", str(write(tmp_path / "corrected.jsonl", rows(*corrected))), *LABEL, *COIN]
    assert main([*words, "--output", str(whole)]) == 0
    assert main([*words, "--output", str(after), "--estimates", str(before)]) == 0
    assert StageSummary.load(after).counts["rollouts_reused"] == 0
    assert [s.label for s in load_solutions(str(after))] == [s.label for s in load_solutions(str(whole))]


def test_what_is_read_is_not_written_over(solutions, tmp_path, capsys):
    words = ["label", str(solutions), *LABEL, *COIN, "--overwrite"]
    text = solutions.read_bytes()
    assert main([*words, "--output", str(solutions)]) == 2
    assert f"{solutions} is read by this command; name another --output" in capsys.readouterr().err
    assert solutions.read_bytes() == text


@pytest.mark.parametrize("finished", [True, False])
def test_a_larger_k_takes_the_place_of_a_smaller_one(finished, solutions, tmp_path, capsys):
    labels, whole, apart = (tmp_path / f"{name}.jsonl" for name in ("labels", "whole", "apart"))
    words = ["label", str(solutions), *LABEL, *COIN]
    if finished:
        assert main([*words, "--output", str(labels)]) == 0
        shutil.copytree(stage_directory(labels), stage_directory(apart))
    else:
        assert in_child([*words, "--output", str(labels)], 20) == -signal.SIGKILL
    larger = [*words, "--k", "16", "--k_hard", "32"]
    capsys.readouterr()
    assert main([*larger, "--output", str(labels)]) == 2
    error = capsys.readouterr().err
    assert "k was 8 and is now 16" in error
    assert error.endswith(f"or --overwrite, or keep its rollouts with --estimates {labels}\n")
    assert main([*larger, "--output", str(labels), "--seed", "1"]) == 2
    assert "--estimates" not in capsys.readouterr().err

    # Killed after the earlier labelling was set aside, it goes on and still knows the earlier rollouts.
    in_place = [*larger, "--output", str(labels), "--estimates", str(labels)]
    assert in_child(in_place, 3) == -signal.SIGKILL
    assert main(in_place) == 0
    assert StageSummary.load(labels).counts["rollouts_reused"] > 0
    assert not list(tmp_path.glob("*.earlier"))
    assert main(in_place) == 0
    assert main([*larger, "--output", str(whole)]) == 0
    assert [s.label for s in load_solutions(str(labels))] == [s.label for s in load_solutions(str(whole))]
    if finished:
        words = [*larger, "--output", str(whole), "--overwrite", "--estimates", str(apart)]
        assert main(words) == 0
        assert StageSummary.load(whole) == StageSummary.load(labels)


def test_rollouts_of_a_killed_labelling_are_reused(solutions, tmp_path):
    killed, large, whole = (tmp_path / f"{name}.jsonl" for name in ("killed", "large", "whole"))
    words = ["label", str(solutions), *LABEL, *COIN]
    assert in_child([*words, "--output", str(killed)], 20) == -signal.SIGKILL
    directory = stage_directory(killed)
    partial = [json.loads(line) for line in (directory / "partial.jsonl").read_text().splitlines()]
    finished = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
    under_way = [row for row in partial if row["id"] not in {item["id"] for item in finished}]
    assert under_way
    with (directory / "journal.jsonl").open("a") as journal:
        journal.write('{"id": "to')  # torn by the kill
    larger = ["label", str(solutions), "--k_hard", "32", "--k", "16", "--k_easy", "8", *COIN]
    assert main([*larger, "--output", str(large), "--estimates", str(killed)]) == 0
    reused = StageSummary.load(large).counts["rollouts_reused"]
    of_finished = sum(item["counts"]["rollouts"] for item in finished)
    assert of_finished < reused <= of_finished + sum(len(row["record"]["outcomes"]) for row in under_way)
    assert main([*larger, "--output", str(whole)]) == 0
    assert [s.label for s in load_solutions(str(large))] == [s.label for s in load_solutions(str(whole))]

    # Of a problem whose solutions are others now, what was under way is left aside.
    changed = [replace(s, id=f"{s.id}-other") for s in load_solutions(str(solutions))]
    write(solutions, rows(*changed))
    assert main([*larger, "--output", str(large), "--overwrite", "--estimates", str(killed)]) == 0
    assert StageSummary.load(large).counts["rollouts_reused"] <= of_finished


def test_a_dead_generator_is_an_error_and_finished_work_is_kept(solutions, tmp_path, capsys, monkeypatch):
    reference, output = tmp_path / "reference.jsonl", tmp_path / "labels.jsonl"
    words = ["label", str(solutions), *LABEL, *COIN]
    assert main([*words, "--output", str(reference)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(CoinGenerator.__init__, "__kwdefaults__", {"fail_after": 200})
    assert main([*words, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "the server is gone" in error
    assert "to resume, run the same command again" in error
    assert not output.exists()
    monkeypatch.undo()

    # Nothing that came back is asked for again, not even of the problems that were under way.
    finished = [json.loads(line) for line in (stage_directory(output) / "journal.jsonl").read_text().splitlines()]
    partial = [json.loads(line) for line in (stage_directory(output) / "partial.jsonl").read_text().splitlines()]
    under_way = [row for row in partial if row["id"] not in {item["id"] for item in finished}]
    assert under_way
    paid = sum(item["counts"]["rollouts"] for item in finished)
    paid += sum(len(row["record"]["outcomes"]) for row in under_way)
    calls = []
    generate = CoinGenerator.generate

    async def counted(self, *arguments, **options):
        calls.append(1)
        return await generate(self, *arguments, **options)

    monkeypatch.setattr(CoinGenerator, "generate", counted)
    assert main([*words, "--output", str(output)]) == 0
    assert files(output) == files(reference)
    assert len(calls) == StageSummary.load(output).counts["rollouts"] - paid


def test_a_full_disk_is_an_error_and_loses_nothing(solutions, tmp_path, capfd):
    reference, output = tmp_path / "reference.jsonl", tmp_path / "labels.jsonl"
    words = ["label", str(solutions), *LABEL, *COIN]
    assert main([*words, "--output", str(reference)]) == 0
    size = (stage_directory(reference) / "journal.jsonl").stat().st_size

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 3, size // 3))
        os._exit(main([*words, "--output", str(output)]))

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 1
    assert "cannot be written: File too large" in capfd.readouterr().err
    assert not output.exists()
    assert main([*words, "--output", str(output)]) == 0
    assert files(output) == files(reference)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "0"], "k must be at least 1"),
        (["--rule", "rpe", "--epsilon", "0"], "epsilon must be above 0"),
        (["--search", "binary"], "binary search"),
        (["--search", "guided"], "guided search"),
        (["--search", "guided", "--rule", "hard"], "--search guided and --guide go together"),
        (["--guide", "verdicts.jsonl"], "--search guided and --guide go together"),
        (["--easy_above", "2"], "the bounds of MC(s_1)"),
        (["--temperature", "0"], "all samples are the same"),
        (["--rollout_batch", "0"], "rollout_batch must be at least 1"),
        (["--limit", "0"], "limit must be at least 1"),
        (["--backend", "tests.helpers.coin_generator:Nothing"], "cannot be imported"),
    ],
)
def test_unusable_options(words, message, solutions, tmp_path, capsys):
    output = tmp_path / "labels.jsonl"
    assert main(["label", str(solutions), *COIN, "--output", str(output), *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [solutions]


def test_bad_rows_stop_before_any_work_or_are_skipped(solutions, problems, tmp_path, capsys):
    bad = {"id": "bad", "problem": "What?", "steps": []}
    for command, file, options in (("label", solutions, LABEL), ("rollout", problems, ROLL)):
        with file.open("a") as lines:
            lines.write(json.dumps(bad) + "\n")
        output = tmp_path / f"{command}.jsonl"
        words = [command, str(file), *options, *COIN, "--output", str(output)]
        assert main(words) == 2
        assert f"{file}, row " in capsys.readouterr().err
        assert not stage_directory(output).exists()
        assert main([*words, "--skip_bad_rows"]) == 0
        assert "rows skipped       1" in capsys.readouterr().out
        assert StageSummary.load(output).bad_rows == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_problems(tmp_path):
    """20,000 problems through the labelling stage; `test_stage` has 100,000 items through the machinery alone."""

    def peak(n: int) -> int:
        """The stage's own, in KiB: a child's begins where this process is."""
        file = tmp_path / f"{n}.jsonl"
        with file.open("w") as lines:
            for number in range(n):
                one = Solution(f"s{number}", f"Chance 50: {number}?", ["x " * 100], "42", False)
                lines.write(json.dumps(one.to_dict()) + "\n")
        output = tmp_path / f"labels{n}.jsonl"
        words = ["label", str(file), *COIN, "--k", "1", "--k_hard", "1", "--k_easy", "1", "--output", str(output)]
        receive, send = multiprocessing.Pipe(duplex=False)

        def run() -> None:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            code = main(words)
            send.send((code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
            os._exit(0)

        child = multiprocessing.get_context("fork").Process(target=run)
        child.start()
        code, grown = receive.recv()
        child.join()
        assert code == 0
        assert StageSummary.load(output).rows == n
        return grown

    growth = peak(20_000) - peak(2_000)
    journal = (stage_directory(tmp_path / "labels20000.jsonl") / "journal.jsonl").stat().st_size // 1024
    # Hashes and places, of the input's reader too: half a KiB a problem, and what the allocator keeps.
    assert growth < 12_000
    assert journal > growth


def test_rollouts_of_which_none_is_kept_are_an_error(problems, tmp_path, capsys):
    unsolvable = [json.loads(line) | {"answer": "no one writes this"} for line in problems.read_text().splitlines()]
    data, output = write(tmp_path / "unsolvable.jsonl", unsolvable[:3]), tmp_path / "rollouts.jsonl"
    assert main(["rollout", str(data), *ROLL, *COIN, "--output", str(output)]) == 2
    printed = capsys.readouterr()
    assert "3 without a right solution" in printed.out
    assert printed.err.endswith(f"no problem has a right and a wrong solution to keep; {output} is empty\n")
