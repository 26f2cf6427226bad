"""Labelling: the plain recipe by hand, the cheaper ways against it on the same rollouts, sharing, and reuse."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.data.problems import SolutionGroup
from genprm_trl.errors import ConfigError
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.labeling.monte_carlo import LabelingConfig, label_group, no_guess
from genprm_trl.labeling.progress import first_error, step_labels
from genprm_trl.labeling.rollout_tree import RolloutTree, prefix_text, state_digest
from genprm_trl.records import Solution
from genprm_trl.solving.solver import Solver, SolverSettings
from tests.helpers.coin_generator import CoinGenerator, solution
from tests.helpers.scripted_generator import Reply, ScriptedGenerator

SMALL = LabelingConfig(k_hard=16, k=8, k_easy=4)
PLAIN = replace(SMALL, stopping="none", scope="all")


class Streams(RolloutTree):
    """States whose rollouts are drawn at given chances, by text."""

    def __init__(self, chances: dict[str, float], seed: int):
        super().__init__(None, "p", "42", seed=seed)  # type: ignore[arg-type]
        self.chances = chances
        self.spent = 0

    async def sample(self, state, trials):
        await asyncio.sleep(0)
        for number in range(len(state.outcomes), trials):
            rng = random.Random(derive_seed(self._seed, state.digest, number))
            state.outcomes.append(rng.random() < self.chances[state.text])
            self.spent += 1


def tree_of(solutions, chances, seed):
    texts = {prefix_text(s.steps[:t], "\n\n") for s in solutions for t in range(len(s.steps))}
    rng = random.Random(seed)
    return Streams({text: rng.choice(chances) for text in sorted(texts)}, seed)


def label(tree, solutions, config, guide=no_guess):
    outcome = asyncio.run(label_group(tree, SolutionGroup(tuple(solutions)), config, {}, guide))
    return outcome, [row["extra"]["labels"] for row in outcome.rows]


@st.composite
def problems(draw):
    """Solutions that share beginnings, and a chance of success for each state."""
    words = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
    texts = draw(st.lists(words, min_size=1, max_size=4))
    solutions = [
        Solution(f"s{n}", "p", [*steps, f"end {n}"], answer="42", final_answer_correct=draw(st.booleans()))
        for n, steps in enumerate(texts)
    ]
    chances = draw(st.lists(st.sampled_from([0.0, 0.02, 0.1, 0.4, 0.5, 0.8, 0.95, 1.0]), min_size=1, max_size=5))
    return solutions, chances, draw(st.integers(0, 10**6))


RULES = st.sampled_from(
    [
        {"rule": "rpe"},
        {"rule": "rpe", "epsilon": 1.0},
        {"rule": "difference"},
        {"rule": "difference", "delta": 0.5},
        {"rule": "hard"},
    ]
)


@given(problems(), RULES, st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_exact_early_stopping_never_changes_a_label(problem, rule, batch):
    solutions, chances, seed = problem
    config = replace(PLAIN, **rule)
    plain, plain_labels = label(tree_of(solutions, chances, seed), solutions, config)
    for row, labels in zip(plain.rows, plain_labels, strict=True):
        # The plain recipe is the definition: labels of the estimates from K rollouts.
        assert labels == step_labels(row["extra"]["mc"], row["extra"]["initial_mc"], config.label_rule())
        assert row["label"] == first_error(labels)
    exact = replace(PLAIN, **rule, stopping="exact", rollout_batch=batch)
    tree = tree_of(solutions, chances, seed)
    cheaper, labels = label(tree, solutions, exact)
    assert labels == plain_labels
    assert [row["extra"]["monte_carlo"]["k"] for row in cheaper.rows] == [
        row["extra"]["monte_carlo"]["k"] for row in plain.rows
    ]
    assert cheaper.counts["rollouts"] == tree.spent <= plain.counts["rollouts"]
    cheapest, labels = label(tree_of(solutions, chances, seed), solutions, replace(exact, scope="first_error"))
    assert labels == [found[: first_error(found) + 1] if False in found else found for found in plain_labels]
    assert [row["label"] for row in cheapest.rows] == [row["label"] for row in plain.rows]
    assert cheapest.counts["rollouts"] <= cheaper.counts["rollouts"]


@given(problems(), st.sampled_from(["none", "exact"]))
@settings(max_examples=150, deadline=None)
def test_binary_search_finds_the_first_zero_where_zero_stays_zero(problem, stopping):
    solutions, _, seed = problem
    rng = random.Random(seed)
    # Chances of 1 up to a step of each text's own, 0 behind it; texts that go on from a 0 have 0.
    tree = tree_of(solutions, [1.0], seed)
    for text in sorted(tree.chances, key=len):
        parents = [other for other in tree.chances if text.startswith(other) and other != text]
        lost = any(tree.chances[parent] == 0 for parent in parents)
        tree.chances[text] = float(text == "" or (not lost and rng.random() < 0.7))
    consistent = [
        replace(s, final_answer_correct=tree.chances[prefix_text(s.steps[:-1], "\n\n")] == 1 and rng.random() < 0.7)
        for s in solutions
    ]
    spent = {}
    labels = {}
    for search in ("linear", "binary"):
        trial = Streams(tree.chances, seed)
        config = replace(SMALL, rule="hard", stopping=stopping, search=search)
        _, labels[search] = label(trial, consistent, config)
        spent[search] = trial.spent
    assert labels["binary"] == labels["linear"]


def test_binary_search_samples_few_prefixes():
    steps = [str(n) for n in range(1, 17)]
    long = Solution("s", "p", steps, answer="42", final_answer_correct=False)
    tree = Streams({prefix_text(steps[:t], "\n\n"): float(t < 11) for t in range(16)}, 0)
    outcome, labels = label(tree, [long], replace(SMALL, rule="hard", search="binary"))
    assert labels == [[True] * 10 + [False]]
    assert outcome.counts["states_sampled"] == 1 + 4  # the problem, and log2(16) prefixes
    mc = outcome.rows[0]["extra"]["mc"]
    assert mc[10] == 0.0
    assert sum(value is not None for value in mc) == 3  # the fourth is behind the error
    right = replace(long, final_answer_correct=True)
    outcome, labels = label(Streams(tree.chances, 0), [right], LabelingConfig(rule="hard", search="binary"))
    assert labels == [[True] * 16]
    assert outcome.counts["states_sampled"] == 1
    for search in ("binary", "guided"):
        for unusable in ({"rule": "rpe"}, {"rule": "difference"}, {"rule": "hard", "scope": "all"}):
            with pytest.raises(ConfigError, match=f"{search} search"):
                LabelingConfig(search=search, **unusable)


@pytest.mark.parametrize("length", range(1, 13))
def test_a_wrong_guide_costs_two_prefixes_more_at_most_and_changes_no_label(length):
    steps = [str(n) for n in range(1, length + 1)]
    wrong = Solution("s", "p", steps, answer="42", final_answer_correct=False)
    guided = replace(SMALL, rule="hard", search="guided")
    for truth in range(length):
        # From the problem and up to the wrong step every rollout succeeds, from there on none.
        chances = {prefix_text(steps[:t], "\n\n"): float(t <= truth) for t in range(length)}
        labels = [True] * truth + [False]
        binary, found = label(Streams(chances, 0), [wrong], replace(guided, search="binary"))
        assert found == [labels]
        unguided, found = label(Streams(chances, 0), [wrong], guided)
        assert (found, unguided.counts) == ([labels], binary.counts)
        for guess in range(length):
            outcome, found = label(Streams(chances, 0), [wrong], guided, lambda solution, guess=guess: guess)
            assert found == [labels]
            sampled = outcome.counts["states_sampled"]
            assert sampled <= binary.counts["states_sampled"] + 2
            if guess == truth:  # the problem, and what stands before and after the step
                assert sampled == 1 + (truth > 0) + (truth < length - 1)


@given(problems(), st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=4, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_guide_finds_a_step_from_some_success_to_none(problem, guesses):
    solutions, chances, seed = problem
    guide = dict(zip((s.id for s in solutions), guesses, strict=False))
    found = {}
    for stopping in ("none", "exact"):  # which change no label here, either
        config = replace(SMALL, rule="hard", search="guided", stopping=stopping)
        outcome, found[stopping] = label(
            tree_of(solutions, chances, seed), solutions, config, lambda solution: guide[solution.id]
        )
    assert found["none"] == found["exact"]
    for row in outcome.rows:
        if row["final_answer_correct"]:
            assert row["label"] == -1
            continue
        step = row["label"]
        before_and_after = [*row["extra"]["monte_carlo"]["steps"], "0"][max(step - 1, 0) : step + 1]
        assert step == 0 or "1" in before_and_after[0]
        assert "1" not in before_and_after[-1]


@given(problems(), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_who_shares_a_state_changes_no_label(problem, batch):
    solutions, chances, seed = problem
    config = replace(SMALL, rollout_batch=batch)
    together, labels = label(tree_of(solutions, chances, seed), solutions, config)
    for order in (solutions[::-1], [solutions[-1]]):
        _, again = label(tree_of(solutions, chances, seed), order, config)
        by_id = dict(zip((s.id for s in order), again, strict=True))
        assert by_id == {s.id: found for s, found in zip(solutions, labels, strict=True) if s.id in by_id}
    apart = sum(label(tree_of(solutions, chances, seed), [s], config)[0].counts["rollouts"] for s in solutions)
    assert together.counts["rollouts"] <= apart


def test_k_by_difficulty():
    config = LabelingConfig()
    table = {0.0: 128, 0.099: 128, 0.1: 64, 0.5: 64, 0.9: 64, 0.901: 32, 1.0: 32}
    assert {initial: config.k_of(initial) for initial in table} == table
    for wrong in ({"k_hard": 0}, {"hard_below": 0.5, "easy_above": 0.4}, {"easy_above": 1.5}):
        with pytest.raises(ConfigError):
            LabelingConfig(**wrong)


@pytest.mark.parametrize(("percent", "k", "of_the_problem"), [(100, 4, 8), (50, 8, 8), (0, 16, 16)])
def test_the_plain_recipe_by_hand(percent, k, of_the_problem):
    one = Solution("s", "p", ["a", "b", "c"], answer="42", final_answer_correct=False)
    # From the problem `percent`, after a all of it, after b nothing: c is known, and needs none.
    tree = Streams({"": percent / 100, "a\n\n": 1.0, "a\n\nb\n\n": 0.0}, 3)
    outcome, labels = label(tree, [one], PLAIN)
    assert labels == [[True, False, False]]
    [row] = outcome.rows
    assert (row["label"], row["extra"]["mc"]) == (1, [1.0, 0.0, 0.0])
    assert [len(bits) for bits in (row["extra"]["monte_carlo"]["initial"], *row["extra"]["monte_carlo"]["steps"])] == [
        of_the_problem, k, k, 0
    ]  # fmt: skip
    assert outcome.counts["rollouts"] == tree.spent == of_the_problem + 2 * k
    assert outcome.counts[f"problems_with_k_{k}"] == 1


def test_after_a_zero_nothing_is_sampled():
    one = Solution("s", "p", ["a", "b", "c"], answer="42", final_answer_correct=True)
    tree = Streams({"": 1.0, "a\n\n": 0.0, "a\n\nb\n\n": 1.0}, 0)
    outcome, labels = label(tree, [one], PLAIN)
    assert labels == [[False, False, False]]
    assert outcome.counts["rollouts"] == 8 + 4
    # The answer is right, but nothing leads there any more: a ratio of these estimates is the label's.
    assert outcome.rows[0]["extra"]["mc"] == [0.0, 0.0, 0.0]


def test_one_step_solutions_need_the_problem_alone():
    solutions = [
        Solution("right", "p", ["a"], answer="42", final_answer_correct=True),
        Solution("wrong", "p", ["b"], answer="42", final_answer_correct=False),
        # Graded here, since it says nothing of its answer.
        Solution("unknown", "p", ["So \\boxed{42}."], answer="42"),
    ]
    outcome, labels = label(Streams({"": 0.5}, 1), solutions, SMALL)
    assert labels == [[True], [False], [True]]
    assert [row["final_answer_correct"] for row in outcome.rows] == [True, False, True]
    assert outcome.counts["rollouts"] == 8


# ---------------------------------------------------------------------------------------------------------------------
# With a generator


def coin_tree(generator, group, **options):
    return RolloutTree(Solver(generator), group.problem, group.answer, seed=7, **options)


GROUP = SolutionGroup(
    (
        solution("s0", "well well well", True),
        solution("s1", "well worse badly", False),
        solution("s2", "well hopelessly well", False),
    )
)


def test_rollouts_of_a_model(monkeypatch):
    generator = CoinGenerator()
    outcome, labels = label(coin_tree(generator, GROUP), GROUP.solutions, LabelingConfig())
    assert labels == [[True, True, True], [True, False], [True, False]]
    assert outcome.counts["rollouts"] == generator.calls
    assert outcome.counts["tokens"] == generator.tokens
    row = outcome.rows[0]
    assert row["extra"]["initial_mc"] == pytest.approx(0.7, abs=0.15)
    shared = {row["extra"]["monte_carlo"]["steps"][0] for row in outcome.rows}
    assert len(shared) == 1  # of the first step, which all of them share
    # A row is a solution again, with everything that it was before.
    again = Solution.from_dict(row)
    assert (again.steps, again.label) == (GROUP.solutions[0].steps, -1)


@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_in_the_prefix_does_not_answer_for_the_rollout(ends):
    replies = {"box": "Checking, the value is 12.", "value": "So it is \\boxed{7}."}

    def reply(text):
        return Reply(replies["box" if "boxed{7}" in text else "value"], ends=ends)

    tree = RolloutTree(Solver(ScriptedGenerator(reply), SolverSettings(max_tokens=40)), "p", "7", seed=1)
    states = [tree.state("Step 1: We get \\boxed{7}.\n\n"), tree.state("Step 1: We get 7.\n\n")]
    for state in states:
        asyncio.run(tree.sample(state, 2))
    assert [state.outcomes for state in states] == [[False, False], [True, True]]


def test_a_larger_k_goes_on_from_what_is_paid_for():
    small = replace(PLAIN, k_hard=32, k=16, k_easy=16)
    large = replace(PLAIN, k_hard=64, k=32, k_easy=32)
    generator = CoinGenerator()
    first, _ = label(coin_tree(generator, GROUP), GROUP.solutions, small)
    paid = generator.calls
    known = {}
    for row in first.rows:
        bits = [row["extra"]["monte_carlo"]["initial"], *row["extra"]["monte_carlo"]["steps"]]
        for t, outcomes in enumerate(bits):
            known[state_digest(GROUP.problem, prefix_text(row["steps"][:t], "\n\n"))] = outcomes
    more, _ = label(coin_tree(generator, GROUP, reused=known), GROUP.solutions, large)
    whole, _ = label(coin_tree(CoinGenerator(), GROUP), GROUP.solutions, large)
    assert more.rows == whole.rows
    assert more.counts["rollouts_reused"] == paid
    assert more.counts["rollouts"] == generator.calls - paid == whole.counts["rollouts"] - paid
    # For a smaller K nothing is paid for, labels are those of the smaller K, and nothing known is thrown away.
    known = {
        state_digest(GROUP.problem, prefix_text(row["steps"][:t], "\n\n")): outcomes
        for row in whole.rows
        for t, outcomes in enumerate([row["extra"]["monte_carlo"]["initial"], *row["extra"]["monte_carlo"]["steps"]])
    }
    less, _ = label(coin_tree(CoinGenerator(fail_after=0), GROUP, reused=known), GROUP.solutions, small)
    assert [(r["label"], r["extra"]["mc"]) for r in less.rows] == [(r["label"], r["extra"]["mc"]) for r in first.rows]
    assert less.rows[0]["extra"]["monte_carlo"]["initial"] == whole.rows[0]["extra"]["monte_carlo"]["initial"]


def test_a_stopped_run_goes_on_within_a_problem():
    records = []
    whole, _ = label(coin_tree(CoinGenerator(), GROUP, keep=records.append), GROUP.solutions, LabelingConfig())
    for kept in (0, 1, len(records) // 2, len(records)):
        generator = CoinGenerator()
        tree = coin_tree(generator, GROUP)
        tree.restore(records[:kept])
        again, _ = label(tree, GROUP.solutions, LabelingConfig())
        assert again == whole
        paid_before = sum(len(record["outcomes"]) for record in records[:kept])
        assert generator.calls == whole.counts["rollouts"] - paid_before
