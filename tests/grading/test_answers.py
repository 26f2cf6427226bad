"""Kinds of answers, each with the grade that a person would give; both ways, bare and boxed."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.data.pools import vote_groups
from genprm_trl.grading.comparison import grade
from tests.helpers.paths import shared_data

# Answers of one row are equal; those of different rows of a kind are not.
KINDS: dict[str, list[list[str]]] = {
    "matrices": [
        [
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
            r"\left[\begin{array}{cc} 1.0 & 2 \\[2pt] 3 & 4 \end{array}\right]",
            "[[1, 2], [3, 4]]",
            r"A = \begin{pmatrix} \frac{2}{2} & 2 \\ 3 & \sqrt{16} \end{pmatrix}",
            r"\frac12 \begin{pmatrix} 2 & 4 \\ 6 & 8 \end{pmatrix}",
        ],
        [r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}"],
        [r"\begin{pmatrix} 1 \\ 2 \\ 3 \\ 4 \end{pmatrix}", r"\begin{smallmatrix}1\\2\\3\\4\end{smallmatrix}"],
        ["4"],
        ["(1, 2, 3, 4)"],
    ],
    "sums of products": [["-(ab + ac + bc)", "-ab-bc-ca"], ["ab + bc + ca"], ["xy + yz", "y(x + z)"]],
    "letters": [["xyz", "zxy"], ["2x"], ["x"], ["X"], [r"\pi(R^2 - r^2)", r"\pi R^2 - \pi r^2"], ["0"]],
    "sets": [[r"\{1, 2\}", r"\{2, 1\}", r"\left\{ 2, 1, 1 \right\}"], ["(1, 2)"], [r"\{1, 3\}"]],
    "lists": [
        ["1, 2", "2, 1", "1 and 2", r"x = 1 \text{ or } x = 2", "x = 1, 2", "$1$, $2$", r"\{1, 2\}"],
        ["1, 1, 2"],
        ["1"],
        ["12"],
    ],
    "lists in their own order": [["2, 3, 1", "2,3,1"], ["1, 2, 3", "3, 2, 1"]],
    "sequences": [[r"1, 3, 5, \ldots"], [r"1, 2, 3, \ldots"]],
    "signs": [
        [r"\pm 2", "2, -2", r"x = \pm 2", "±2", r"\{-2, 2\}"],
        ["2"],
        ["-2"],
        [r"1 \pm \sqrt{5}", r"1 + \sqrt5, 1 - \sqrt5"],
        [r"\pm 1, \pm 2", "-2, -1, 1, 2"],
    ],
    "tuples": [["(1, 2)", "(1,2)", r"\left( 1, \frac{4}{2} \right)", "x = 1, y = 2", "(x, y) = (1, 2)"], ["(2, 1)"]],
    "signed tuples": [["(a, b)"], ["-(a, b)"]],
    "brackets": [["[6, 2]"], ["(6, 2)"]],
    "several unknowns": [["x = 1, y = 2", "y = 2, x = 1"], ["x = 2, y = 1"]],
    "intervals": [
        [r"[2, \infty)", r"x \ge 2", "x >= 2", r"2 \leq x", r"x \in [2, \infty)", r"\{x | x \ge 2\}"],
        [r"(2, \infty)", "x > 2", "2 < x"],
        [r"(-\infty, 2]", r"x \le 2"],
        ["2"],
    ],
    "bounded intervals": [
        ["(0, 1)", "0 < x < 1", "1 > x > 0"],
        ["[0, 1]", r"0 \le x \le 1"],
        ["[0, 1)", r"0 \le x < 1"],
    ],
    "unions": [
        [r"(-\infty, 2) \cup (3, \infty)", r"(3, \infty) \cup (-\infty, 2)", r"x < 2 \text{ or } x > 3"],
        [r"(-\infty, 2] \cup [3, \infty)"],
        [r"x \ne 3", r"(-\infty, 3) \cup (3, \infty)"],
        ["all real numbers", r"\mathbb{R}", r"(-\infty, \infty)"],
    ],
    "numbers": [
        ["1/2", "0.5", ".5", r"\frac12", "½", r"{1 \over 2}", "2/4", "0.50"],
        ["2"],
        ["-1/2", r"\frac{-1}{2}"],
    ],
    "mixed numbers": [["5/4", "1 1/4", r"1\frac14", r"1 \frac{1}{4}", "1.25"], ["11/4"], ["1/4"], [r"-1\frac14"]],
    "thousands": [
        ["1000", "1,000", "1 000", r"1\,000", "1{,}000", r"1,\!000", r"1~000", r"1\ 000", "10^3", "1e3", "1'000"],
        ["10,000", "10 000", r"10\,000"],
        ["100"],
        ["1.000"],
    ],
    "numbers in brackets": [
        ["(1,234)", "(1, 234)"],
        [r"\{1,234\}", r"\{234, 1\}"],
        ["1234"],
        ["(1,000,000)"],
        ["(12,345)", r"\left( 12, 345 \right)"],
        ["[12,345]"],
        ["12345"],
        ["1000000"],
    ],
    "systems": [
        [
            r"\begin{cases} x = 1 \\ y = 2 \end{cases}",
            r"\left\{\begin{aligned} x &= 1, \\ y &= 2 \end{aligned}\right.",
            "x = 1, y = 2",
            "(1, 2)",
        ],
        [r"\begin{cases} x = 2 \\ y = 1 \end{cases}"],
        [r"\begin{cases} x & x > 0 \\ -x & x \le 0 \end{cases}"],
    ],
    "calculations over rows": [[r"\begin{align*} x &= 2 + 3 \\ &= 5 \end{align*}", "5"], ["2"], ["2, 5"]],
    "vectors": [
        [r"\langle 1, 2 \rangle", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"],
        [r"\langle 2, 1 \rangle"],
        [r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}"],
        [r"\{1, 2\}"],
    ],
    "outward brackets": [["]0, 1[", "(0, 1)"], ["]0, 1]", "(0, 1]"], ["[0, 1[", "[0, 1)"], ["[0, 1]"]],
    "all but one": [
        [r"\mathbb{R} \setminus \{3\}", r"x \ne 3"],
        [r"\mathbb{R}"],
        ["3"],
        [r"\mathbb{R} \setminus \{0\}"],
    ],
    "radians": [["90°", r"\frac{\pi}{2}", r"\frac{\pi}{2} \text{ radians}"], ["9°"], [r"\pi"]],
    "grouped in other ways": [["1_234", "1234"], [r"₹1,00,000", "100000 rupees"], [r"\$3k", r"\$3000"], ["3"]],
    "numbers of programs": [["0xFF", "255", "0b11111111", "FF_{16}"], ["0xFE"], ["0"]],
    "numbers and fractions": [["1 and 1/2", "1.5"], ["1"], ["1/2"]],
    "dates of programs": [["2020-03-05", "March 5, 2020"], ["2020-05-03"], ["2012"]],
    "hours and minutes": [["2h30m", "150 min", "2 h 30 min"], ["150 m"], ["2 h"]],
    "ordinals": [["third", "3", "the third"], ["1/3"], ["second"]],
    "percent of a change": [["a 20% increase", "20%", "20 percent increase"], ["30% increase"], ["20 dollars"]],
    "half-open intervals": [["(1, 2]"], ["[1, 2)"], ["1, 2"]],
    "sizes": [[r"2 \times 3 \text{ matrix}"], ["6"], [r"3 \times 2 \text{ matrix}"]],
    "digits of no base": [["3_2"], ["3_3"], ["3"]],
    "two numbers": [["4, 144"], ["4144"], ["3 4"], ["34"]],
    "percent": [["50%", r"50\%", "50 percent", r"50\text{ percent}"], ["5%"], ["500"]],
    "degrees": [["90°", r"90^\circ", r"90^{\circ}", "90 degrees", r"\angle ABC = 90^\circ"], ["9°"]],
    "temperatures": [["20°C", r"20^\circ\text{C}", "20 degrees Celsius"], ["20°F"]],
    "money": [["$18", r"\$18", r"\$18.00", "18 dollars", r"\$ 18"], ["€18"], ["18 cents"], [r"\$1800"]],
    "money with a decimal comma": [
        [
            "€1.234,50",
            "1.234,50 €",
            "1.234,50 EUR",
            "1 234,50 €",
            r"€1.234{,}50",
            r"1.234,50 \text{ euros}",
            "€1,234.5",
        ],
        [r"\$1.234,50", r"\$1,234.50", "1.234,50 dollars"],
        ["€1.234"],
        ["€1,234", "1234 €"],
        ["-€1.234,50", "€-1.234,50"],
        ["€123.450"],
    ],
    "money with several points": [["€1.234.567,89", "€1,234,567.89"], ["€1.234.567", "1,234,567 euros"], ["€1.234"]],
    "cents after a comma": [["€12,50", "12,50 €", "€12.50"], ["€1250"], ["€12"], ["12, 50"]],
    "big money": [[r"\$1.5 million", "1,500,000 dollars"], ["1.5"]],
    "lengths": [["5 cm", r"5\text{ cm}", "5 centimeters", "50 mm", r"5\,\mathrm{cm}"], ["5 meters"], ["5 cm^2"]],
    "areas": [["12 square inches", r"12 \text{ in}^2", "12 sq. in."], ["12 inches"]],
    "speeds": [["10 mph", "10 miles per hour", "10 miles/hour"], ["10 miles"], ["10 km/h"]],
    "compound lengths of time": [["2 hours 30 minutes", "2 hours and 30 minutes", "2.5 hours"], ["30 minutes"], ["2"]],
    "halves": [["3 and a half", "3.5", r"3\frac12"], ["3"], ["one half", "1/2"], ["two thirds", "2/3"]],
    "whole numbers of any size": [["2^{100}"], ["2^{100} + 1"]],
    "roots with units": [[r"6\sqrt{2} \text{ miles per hour}", r"6\sqrt{2}"], ["6"]],
    "counted things": [["18 eggs"], ["18 apples"], ["19 eggs"]],
    "sides": [["5 left"], ["5 right", "5 to the right"], ["6 left"]],
    "profit and loss": [["profit of 5 dollars", r"a \$5 profit", "gain of 5 dollars"], ["loss of 5 dollars"]],
    "more and fewer": [["5 more"], ["5 fewer", "5 less"]],
    "rise and fall": [[r"increase by 20\%", "increase of 20%"], [r"decrease by 20\%"]],
    "bounds": [
        [r"at least 5", r"\ge 5", "x >= 5", "no less than 5", "at least 5 people"],
        ["more than 5", "> 5"],
        ["at most 5", r"\le 5", "no more than 5"],
        ["less than 5", "fewer than 5"],
        ["5"],
    ],
    "things in lists": [["10 rabbits and 9 chickens", "9 chickens and 10 rabbits"], ["9 rabbits and 10 chickens"]],
    "bases": [["101_2", "101_{2}", r"101_{\text{two}}", "101 (base 2)"], ["101_3"], ["5"]],
    "repeating decimals": [
        [r"0.\overline{3}", "1/3", "0.333...", r"0.\bar{3}", "0.(3)", "0.333333"],
        ["0.3"],
        ["0.33"],
        [r"0.\overline{34}", "34/99"],
    ],
    "small numbers": [
        [r"6.02 \times 10^{-23}", "6.02e-23"],
        [r"1.6 \times 10^{-19}"],
        ["0.00000015", r"1.5 \cdot 10^{-7}"],
        ["0.00000025"],
        [r"\frac{1}{50!}"],
        [r"\frac{1}{52!}"],
        ["10^{-9}"],
        ["10^{-10}"],
        [r"\frac{x}{2^{98}}"],
        [r"\frac{x}{2^{99}}"],
    ],
    "rounded numbers": [[r"\sqrt2", "1.41421356", "2^{1/2}"], ["1.414"], [r"\pi", "3.14159265"], ["3.14"], ["22/7"]],
    "options": [["(A)", r"\text{(A)}", "option A", r"\textbf{(A)}\ 5", "A: five", "A. 5"], ["(B)", "(B) 6"]],
    "lists of options": [["A, C", r"\text{A,C}", "A and C", "(A) and (C)"], ["A, B"], ["A"]],
    "words": [["East", r"\text{east}", "east."], ["west"], ["tea"], ["eat"]],
    "yes and no": [["yes", r"\text{Yes}", r"\textbf{yes}"], ["no"], ["on"]],
    "number words": [["21", "twenty-one"], ["20"]],
    "dates": [["October 30", r"\text{October 30}", "30 October", "Oct. 30th"], ["October 31"]],
    "times": [["3:30 PM", "15:30", "3:30 p.m."], ["3:30 AM"], ["330"], ["3:31 PM"]],
    "ratios": [["2:3", "2/3", "4:6", "2 : 3"], ["3:2"], ["2:3:4"]],
    "equations": [
        ["y = 2x + 1", "2x + 1", "y = 1 + 2x"],
        ["y = 2x - 1"],
        ["y = x"],
    ],
    "equations of both sides": [["y = 2x + 1", "2x - y + 1 = 0", "4x - 2y = -2"], ["2x - y = 1"], ["1"]],
    "values of names": [["5", "x = 5", "5 = x", r"x = \frac{10}{2} = 5"], ["x = 6"], ["n = 5k"]],
    "two names": [["x = 5"], ["y = 5"]],
    "complex numbers": [["3 + 4i", "4i + 3"], ["3 - 4i"], ["e^{i\\pi}", "-1", "i^2"]],
    "functions": [[r"\cos 60^\circ", "1/2"], [r"\log_2 8", "3", r"\ln e^3"], [r"\cot x", r"\frac{\cos x}{\sin x}"]],
    "no solution": [[r"\emptyset", r"\varnothing", r"\{\}", "no solution", "No solutions."], ["0"]],
    "infinity": [[r"\infty", "infinity", "∞", r"+\infty"], [r"-\infty"]],
    "polynomials": [["(x+1)(x-1)", "x^2 - 1"], ["x^2 + 1"], ["|x|"], ["x"]],
}


@pytest.mark.parametrize(
    ("answer", "same", "other"),
    [
        ("-(1, 2)", "(-1, -2)", "(1, 2)"),
        ("2(1, 2)", "(2, 4)", "(2, 2)"),
        ("(1010)_2", "1010_2", "1010_3"),
        ("|x| > 1", r"(-\infty, -1) \cup (1, \infty)", "(-1, 1)"),
        (r"|x| \ge 1", r"x \le -1 \text{ or } x \ge 1", "|x| > 1"),
        ("|x - 2| < 3", "(-1, 5)", "(-3, 3)"),
        ("|x + 2| < 3", "(-5, 1)", "(-1, 5)"),
        ("5'6\"", "5 feet 6 inches", "5.6 feet"),
        ("20 percentage points", "20%", "2%"),
        ("5 am", "5", "6"),
        ("5:30 am", "5:30", "5"),
        ("答案：5。", "5", "6"),
    ],
)
def test_forms_that_say_the_same(answer, same, other):
    assert grade(answer, same, timeout=60).correct
    assert grade(same, answer, timeout=60).correct
    assert not grade(answer, other, timeout=60).correct
    assert not grade(other, answer, timeout=60).correct


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_answers(kind):
    rows = KINDS[kind]
    pairs = [(a, b, True) for row in rows for a, b in itertools.product(row, row)]
    pairs += [(a, b, False) for one, other in itertools.permutations(rows, 2) for a in one for b in other]
    wrong = [(a, b) for a, b, same in pairs if grade(a, b, timeout=60).correct is not same]
    boxed = [(a, b) for a, b, same in pairs if grade(f"So it is $\\boxed{{{a}}}$.", b, timeout=60).correct is not same]
    assert (wrong, boxed) == ([], [])


@pytest.mark.parametrize(
    ("answer", "others"),
    [
        ("48 dollars", ["48"]),
        ("5 cm", ["5"]),
        ("50%", ["50", "0.5"]),
        ("€1.234,50", ["1234.50"]),
        ("1.234", ["€1.234"]),
        ("4343_6", ["4343"]),
        ("90°", ["90"]),
        (r"\textbf{(C)}\ 5", ["C", "5"]),
        ("3:30 PM", ["3:30"]),
        ("y = 2x + 1", ["2x + 1"]),
        ("March 3, 2020", ["March 3"]),
        ("about 5", ["5"]),
        ("AB = 5", ["5"]),
        ("f(2) = 5", ["5"]),
        ("m + n = 10", ["10"]),
        (r"\sqrt2 \approx 1.414", [r"\sqrt2", "1.414"]),
        ("(1, 2)", ["0 + 1 < x < 2", "1, 2"]),
        ("1,234", ["1234", "1, 234"]),
        (r"3 \pmod 7", ["3"]),
        ("18 red marbles", ["18 marbles", "18"]),
        (r"\$18 per day", [r"\$18", "18"]),
        ("5 apples left", ["5 apples", "5"]),
        ("a loss of 5 dollars", ["5 dollars", "5"]),
        ("5 more pounds", ["5 pounds", "5"]),
        ("5 out of 10", ["5", "5/10"]),
    ],
)
def test_what_one_side_leaves_out(answer, others):
    for other in others:
        assert grade(answer, other, timeout=60).correct
        assert grade(other, answer, timeout=60).correct


@pytest.mark.parametrize(
    ("text", "answer", "other"),
    [
        ("5, not 6", "5", "6"),
        ("5 (not 6)", "5", "6"),
        ("5 and not 6", "5", "6"),
        ("5 instead of 6", "5", "6"),
        ("5 rather than 6", "5", "6"),
        ("(not 6) 5", "5", "6"),
        ("not 6 but 5", "5", "6"),
        ("5, but it might be 6", "5", "6"),
        ("5, although 6 is close", "5", "6"),
        ("5 which is less than 6", "5", "6"),
        (r"$\frac{1}{2}$, not $\frac{1}{3}$", "0.5", "1/3"),
    ],
)
def test_what_an_answer_is_not(text, answer, other):
    for whole in (text, f"The answer is {text}."):
        for one, correct in ((answer, True), (other, False)):
            assert grade(whole, one, timeout=60).correct is correct
            assert grade(one, whole, timeout=60).correct is correct


def test_cases_with_a_truth():
    """No wrong answer may pass; a few right ones may fail, of which there are none now."""
    path = shared_data("../faults/grading_cases.json")
    cases = json.loads(path.read_text(encoding="utf-8"))
    grades = [grade(case["text"], case["ref"], timeout=60).correct for case in cases]
    turned = [grade(case["ref"], case["text"], timeout=60).correct for case in cases]
    truths = [case["truth"] for case in cases]
    assert (grades, turned) == (truths, truths)


@pytest.mark.parametrize(
    "piece", [r"\text{a} ", "(A) ", r"\pm 1,", "5 hours ", r"\frac", "is 5 ", r"\sqrt(", "1{,}", "not A. "]
)
def test_no_text_takes_long_to_read(piece):
    """Reading has no time limit: a pattern that tries all ways would never end here."""
    grade(piece * 300 + "x = 5", "5", timeout=5)
    grade(f"The answer is {piece * 100} = 5", "5", timeout=5)


# ---------------------------------------------------------------------------------------------------------------------
# Properties

ANSWERS = sorted({answer for rows in KINDS.values() for row in rows for answer in row})
PIECES = ["1", "2", "(", ")", "[", "]", "{", "}", r"\{", r"\}", ",", " ", "x", "y", "=", "<", r"\frac", r"\sqrt", "^",
          "_", "%", "$", r"\$", "°", r"\pm ", r"\cup ", r"\text{", "and", "or", "cm", "A", ":", ".", "-", "\\\\", "&",
          r"\begin{pmatrix}", r"\end{pmatrix}", r"\overline", r"\ldots", "'", "!", "|", "apples"]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS))
def test_comparison_is_symmetric(a, b):
    assert grade(a, b, timeout=60).correct is grade(b, a, timeout=60).correct


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(ANSWERS),
    st.sampled_from(["{}", " {} ", "{}.", "**{}**", r"\boxed{{{}}}", "The answer is {}.", "Answer: {}", "#### {}"]),
)
def test_an_answer_equals_itself_however_it_is_set(answer, form):
    assert grade(form.format(answer), answer, timeout=60).correct


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(["1", "(1, 2)", "x = 2", "5 cm"]))
def test_any_text_gets_a_grade(text, reference):
    result = grade(text, reference, timeout=2)
    assert result.correct is grade(reference, text, timeout=2).correct or "timeout" in result.status


def test_an_answer_that_equals_two_votes_with_the_same_one_in_any_order():
    answers = ["50%", "50", "0.5", "7"]
    for order in itertools.permutations(answers):
        votes = dict(zip(order, vote_groups(order), strict=True))
        assert votes["50%"] == votes["50"]
        assert len({votes["50"], votes["0.5"], votes["7"]}) == 3


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_votes_do_not_depend_on_the_order(data):
    mixed = [
        "0<x<1",
        "(0,1)",
        r"\{0, 1\}",
        "0, 1",
        "50%",
        "0.5",
        "50",
        "1/2",
        "5 cm",
        "5",
        "x = 5",
        "(C) 5",
        "C",
        None,
    ]
    answers = data.draw(st.lists(st.sampled_from(mixed), min_size=2, max_size=8))
    order = data.draw(st.permutations(range(len(answers))))
    votes, others = vote_groups(answers), vote_groups([answers[place] for place in order])
    together = {(a, b) for a, b in itertools.product(order, order) if votes[a] == votes[b]}
    assert together == {
        (order[a], order[b]) for a, b in itertools.product(range(len(order)), repeat=2) if others[a] == others[b]
    }
