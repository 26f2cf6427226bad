"""Equations in steps: what is read, what is checked, and what that prints."""

import contextlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.smollm2.equations import accepts, check_code, evaluate, holds, rule_prediction, stated_equations


def printed(code: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue().strip()


@pytest.mark.parametrize(
    ("equations", "output"),
    [
        ([["(4 + 3 + -5)", "(4 + 3 - 5)", "2"]], "True"),
        ([["(7 - -7 * 4)", "(7 - 28)", "-21"]], "False"),
        ([["12/60", "0.2"], ["50*0.2", "10"]], "True\nTrue"),
        ([["10/3", "3.33"]], "True"),  # rounded
        ([["10/4", "2.6"]], "False"),
        ([["7.5/(1/2)", "7.5*2", "15"]], "True\nTrue"),
        ([["2 - 0.5", "-1 + 2.5"]], "True"),
        ([], "no equation"),
    ],
)
def test_the_code_says_whether_the_sides_are_equal(equations, output):
    assert printed(check_code(equations)) == output
    assert accepts(output) == ("False" not in output) == all(map(holds, equations))


def test_only_whole_outputs_are_accepted():
    for output in ("", "True\nFalse", "Code execute Error: NameError: name 'x' is not defined", "true"):
        assert not accepts(output)


@pytest.mark.parametrize(
    ("step", "equations"),
    [
        ("Let's calculate A = (4 + 3 + -5) = (4 + 3 - 5) = 2.", [["(4 + 3 + -5)", "(4 + 3 - 5)", "2"]]),
        ("Then A - B = -14 - 2 - (-1260) = 1244. So the answer is 1244", [["-14 - 2 - (-1260)", "1244"]]),
        (r"She pays \( \frac{1300}{2} = 650 \).", [["((1300)/(2))", "650"]]),
        (r"\[ 2 \times 30 = 60 \text{ liters} \]", [["2 * 30", "60"]]),
        ("That is $1,200 x 2 = $2,400 (48/2=24).", [["1200 * 2", "2400"], ["48/2", "24"]]),
        ("Let R = 4B and B = 7. The answer is 7.", []),
        ("So x = 5 = 5", []),
        ("2 + 3 = 5 = ? and 4 * 5 = x = 20", [["2 + 3", "5"]]),
        ("1 " * 5000 + "= 7 + " * 5000, []),
    ],
)
def test_stated_equations_are_found(step, equations):
    assert stated_equations(step) == equations


def test_the_rule_names_the_first_false_equation():
    assert rule_prediction(["We add.", "2 + 3 = 5", "5 * 2 = 11", "1 + 1 = 3"]) == 2
    assert rule_prediction(["We add.", "2 + 3 = 5"]) == -1


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="0123456789+-*/()=. xA\\{}$", max_size=60))
def test_any_text_is_read(text):
    evaluate(text)
    for equation in stated_equations(text):
        assert len(equation) > 1
        holds(equation)


@pytest.mark.parametrize("text", ["__import__('os')", "9**9**9", "a", "True", "'a'*9", "(" * 500, "1/0", "1e400*0"])
def test_nothing_but_arithmetic_is_evaluated(text):
    assert evaluate(text) is None or text == "1e400*0"
