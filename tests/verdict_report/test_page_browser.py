"""The page in a real headless Chromium: what a person sees, reads, hears and types. Skipped where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verdict_report import write_comparison
from tests.helpers.chromium import open_chromium
from tests.helpers.verdict_examples import HOSTILE, make_page, solution_of, verdict

expect.set_options(timeout=60_000)  # a busy machine is no failure

SUMMARIES = ".solution > details > summary"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """120 solutions: every third is flagged at step 2, labels and answers vary, one holds hostile text."""
    verdicts, solutions = [], []
    for number in range(120):
        low = 0.1 if number % 3 == 0 else 0.8
        one = verdict(f"item-{number}", [[0.95, low, 0.7], [0.9, low + 0.05, 0.8]], label=(-1, 1, None, 2)[number % 4])
        if number == 7:
            one.chains[1][0].status = "fallback"
        if number == 9:
            one.chains[0][0].rationale = HOSTILE
            one.chains[0][0].code_rounds[0].output = HOSTILE
        if number == 77:
            one.chains[1][2].rationale = "a Needle in the hay " + "straw " * 20_000
        verdicts.append(one)
        text = HOSTILE if number == 9 else f"Problem {number}: what is it?"
        solutions.append(solution_of(one, text, final_answer_correct=number % 2 == 0))
    return make_page(tmp_path_factory.mktemp("report"), verdicts, solutions)


@pytest.fixture
def page(browser, page_file) -> Iterator[Page]:
    """The page, opened; fails if it asked for anything or complained of anything."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_file.as_uri())
    yield page
    assert page.evaluate("window.hacked") is None
    assert complaints == []
    # Chromium reports the icon's data: URL, too.
    assert {url for url in asked if not url.startswith("data:")} == {page_file.as_uri()}
    context.close()


def ids(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(f"{SUMMARIES} .what b").all_text_contents()]


def focused(page: Page) -> str:
    """The id of the solution that has the focus."""
    return page.evaluate(
        "document.activeElement.matches('summary') ? document.activeElement.querySelector('.what b').textContent : ''"
    )


def test_lists_a_page_of_solutions(page):
    assert ids(page) == [f"item-{number}" for number in range(50)]
    expect(page.get_by_role("status")).to_have_text("120 solutions")
    first = page.locator(SUMMARIES).first
    expect(first).to_contain_text("✗ step 2 judged wrong")
    expect(first).to_contain_text("≠ label: all right")
    assert first.locator(".strip").get_attribute("aria-label") == (
        "Rewards: step 1 0.93, step 2 0.13 (judged wrong), step 3 0.75"
    )
    page.get_by_role("button", name="Next").click()
    assert ids(page)[0] == focused(page) == "item-50"
    page.keyboard.press("]")
    assert len(ids(page)) == 20
    expect(page.get_by_role("button", name="Next")).to_be_disabled()


def test_unfolds_into_steps_rationales_code_and_output(page):
    row = page.locator(".solution").nth(3)
    row.locator("summary").first.click()
    expect(row.locator(".problem")).to_have_text("Problem 3: what is it?")
    steps = row.locator(".step")
    expect(steps).to_have_count(3)
    assert steps.nth(1).get_attribute("open") is not None  # the one judged wrong
    assert steps.nth(0).get_attribute("open") is None
    expect(steps.nth(2).locator(".said")).to_contain_text("wrong by the label")
    chain = steps.nth(1).locator(".chain").nth(1)
    expect(chain.locator("summary")).to_contain_text("0.150")
    chain.locator("summary").click()
    headings = chain.locator("h4")
    expect(headings).to_have_text(["Analysis", "Code", "Output of the code: ok, 2 ms", "Verdict"])
    expect(chain.locator("pre")).to_have_text(["print(1 + 1)", "2"])
    chain.get_by_role("button", name="Text as written").click()
    expect(chain.locator("pre")).to_contain_text("<verify>\nLet's use python code to find any potential error:")
    chain.get_by_role("button", name="In parts again").click()
    expect(headings).to_have_count(4)


def test_hostile_text_is_text(page):
    row = page.locator(".solution").nth(9)
    row.locator("summary").first.focus()
    page.keyboard.press("e")
    expect(row.locator(".problem")).to_contain_text("</script><script>window.hacked = 1</script>")
    expect(row.locator("pre.out").first).to_contain_text("<img src=x onerror='window.hacked = 1'>")
    assert page.locator(".solution img, .solution script, .solution textarea").count() == 0
    assert page.evaluate("document.scripts.length") == 2
    page.wait_for_timeout(100)  # an image's error handler would have run


def test_the_policy_stops_scripts_and_network(browser, page_file):
    """What escaping keeps out would not run either."""
    page = browser.new_page()
    page.goto(page_file.as_uri())
    stopped: list[str] = []
    page.on("console", lambda message: stopped.append(message.text))
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
            const image = "<img src='http://127.0.0.1:9/x' onerror='window.hacked = 1'>";
            document.body.insertAdjacentHTML("beforeend", image);
        }"""
    )
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => false, () => true)")
    assert refused
    assert page.evaluate("window.hacked") is None
    text = "\n".join(stopped)
    assert "script-src" in text
    assert "img-src" in text
    assert "default-src" in text or "connect-src" in text
    page.close()


@pytest.mark.parametrize(
    ("filter", "choice", "count"),
    [
        ("Verdict", "a step judged wrong", 40),
        ("Verdict", "no step judged wrong", 80),
        ("Against the label", "agrees", 30),
        ("Against the label", "disagrees", 60),
        ("Against the label", "missed the error", 40),
        ("Against the label", "flagged another step", 10),
        ("Against the label", "flagged a correct solution", 10),
        ("Against the label", "has no label", 30),
        ("Final answer", "right", 60),
        ("Status", "fallback", 1),
    ],
)
def test_filters(page, filter, choice, count):
    page.get_by_role("combobox", name=filter, exact=True).select_option(f"{choice} ({count})")
    expect(page.get_by_role("status")).to_have_text(f"{count} of 120 solutions")
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_role("status")).to_have_text("120 solutions")


def test_filters_add_up_and_empty_ones_cannot_be_chosen(page):
    page.get_by_role("combobox", name="Verdict", exact=True).select_option("a step judged wrong (40)")
    page.get_by_role("combobox", name="Final answer", exact=True).select_option("wrong (60)")
    expect(page.get_by_role("status")).to_have_text("20 of 120 solutions")
    statuses = page.get_by_role("combobox", name="Status", exact=True)
    assert statuses.get_by_role("option", name="error (0)").is_disabled()


def test_order(page):
    page.get_by_label("Order").select_option("lowest reward first")
    assert ids(page)[:2] == ["item-0", "item-3"]
    page.get_by_label("Order").select_option("nearest to the threshold first")
    assert ids(page)[:2] == ["item-1", "item-2"]


def test_searches_all_text_and_marks_it(page):
    page.keyboard.press("/")
    page.keyboard.type("needle in")
    expect(page.get_by_role("status")).to_have_text("1 of 120 solutions")
    assert ids(page) == ["item-77"]
    page.locator(SUMMARIES).focus()
    page.keyboard.press("e")
    expect(page.locator("mark").first).to_have_text("Needle in")
    more = page.get_by_role("button", name=re.compile("Show all 120,019 characters"))
    more.click()
    expect(more).to_have_count(0)
    page.locator("#query").focus()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("120 solutions")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")


def test_search_takes_no_text_for_a_pattern(page):
    page.locator("#query").fill("</script><script>")
    expect(page.get_by_role("status")).to_have_text("1 of 120 solutions")
    page.locator("#query").fill("(what|.*")
    expect(page.get_by_role("status")).to_have_text("0 of 120 solutions")
    expect(page.locator("#list")).to_be_hidden()


def test_keys_move_unfold_and_turn_pages(page):
    page.keyboard.press("k")  # nothing before the first
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert focused(page) == "item-1"
    page.keyboard.press("k")
    assert focused(page) == "item-0"
    page.keyboard.press("Enter")
    expect(page.locator(".solution .step")).to_have_count(3)
    for _ in range(50):
        page.keyboard.press("j")
    assert focused(page) == "item-50"
    page.keyboard.press("k")
    assert focused(page) == "item-49"
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("j")
    assert focused(page) == ""  # the dialog has the focus
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_single_keys_can_be_turned_off(page):
    page.keyboard.press("?")
    page.get_by_label("Single keys are on").uncheck()
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    assert focused(page) == ""
    page.reload()
    assert not page.locator("#keys-on").is_checked()


def test_everything_is_reached_by_tab_with_a_visible_focus(page):
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the solutions")
    expect(skip).to_be_focused()
    assert skip.bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#query")).to_be_focused()
    seen = []
    for _ in range(7):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert seen == ["verdict", "label", "final", "status", "order", "reset", "SUMMARY"]


def test_structure_for_a_screen_reader(page):
    page.get_by_role("main")
    expect(page.get_by_role("heading", level=1)).to_have_text("verdicts.jsonl")
    assert page.get_by_role("heading", level=2).all_text_contents() == ["Summary", "Solutions"]
    expect(page.get_by_role("search", name="Solutions")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile(r"^Reliability\. Calibration error 0\.\d+"))).to_be_visible()
    for control in page.locator("select, input, button").all():
        if control.is_visible():
            name = control.evaluate("e => e.labels?.[0]?.textContent || e.getAttribute('aria-label') || e.textContent")
            assert name.strip()
    page.get_by_text("Numbers of “Reliability”").locator("xpath=..").click()
    expect(page.get_by_role("table").first).to_contain_text("mean reward")
    page.locator(SUMMARIES).nth(0).click()
    expect(page.get_by_role("img", name="2 rationales, rewards 0.10 to 0.15")).to_be_visible()


# Contrast of an element's text with the ground behind it (WCAG 2.2, 1.4.3), through a canvas that knows any colour.
CONTRAST = """element => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const light = (colors) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const [low, high] = [light(grounds), light([getComputedStyle(element).color])].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_and_their_contrast(page, theme):
    page.emulate_media(color_scheme=theme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    page.get_by_role("combobox", name="Theme", exact=True).select_option(theme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    page.locator(SUMMARIES).nth(0).click()
    expect(page.locator(".chain").first).to_be_visible()
    page.evaluate(
        """() => { for (let level = 0; level <= 10; level++) {
            const cell = document.createElement("span");
            cell.className = `cell r${level}`;
            cell.textContent = ".5";
            document.querySelector(".key").append(cell);
        } }"""
    )
    for selector in (
        "h1", ".title p", ".tiles dt", ".tiles small", ".chart figcaption p", ".legend li", ".key", ".key .cell",
        ".says b", ".says small", ".what span", ".step .tag", ".chain > summary", ".filters span", "footer p",
    ):  # fmt: skip
        for element in page.locator(selector).all()[:20]:
            assert element.evaluate(CONTRAST) >= 4.5, (selector, element.get_attribute("class"))
    page.reload()
    assert page.get_by_role("combobox", name="Theme", exact=True).input_value() == theme


def test_a_narrow_screen_has_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 380, "height": 700})
    page.locator(SUMMARIES).nth(0).click()
    expect(page.locator(".step").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_without_script_the_charts_remain(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.locator("#solutions")).to_be_hidden()
    expect(page.locator("svg.drawing")).to_have_count(4)
    context.close()


def test_verdicts_alone_make_a_page(browser, tmp_path):
    """Without solutions, labels and rationales."""
    bare = verdict("bare", [[0.9, 0.4]])
    for one in bare.chains[0]:
        one.rationale, one.code_rounds = "", []
    none = verdict("none", [[0.9]])
    none.chains = []
    page = browser.new_page()
    page.goto(make_page(tmp_path, [bare, none]).as_uri())
    expect(page.get_by_role("combobox", name="Final answer", exact=True)).to_be_hidden()
    expect(page.get_by_label("Against the label")).to_be_hidden()
    expect(page.get_by_text("No verdict carries a label")).to_have_count(3)
    page.locator(SUMMARIES).nth(0).click()
    expect(page.get_by_text("No text of this rationale was kept.")).to_be_visible()
    page.locator(SUMMARIES).nth(1).click()
    page.locator(".solution").nth(1).locator(".step > summary").click()
    expect(page.get_by_text("The file keeps no rationales of this verdict.")).to_be_visible()
    page.close()


def test_several_verifiers_side_by_side_and_where_they_differ(browser, tmp_path):
    labels, low = (1, -1, 1, -1), ([0.1, 0.9, 0.8, 0.2], [0.2, 0.8, 0.1, 0.9], [0.9, 0.9, 0.3, 0.8])
    for name, column in zip(("alpha", "beta", "gamma"), low, strict=True):
        found = [verdict(f"item-{n}", [[0.95, each]], label=labels[n]) for n, each in enumerate(column)]
        write_jsonl(tmp_path / f"{name}.jsonl", found)
    solutions = [solution_of(one, f"Problem {one.id}") for one in found]
    files = [tmp_path / f"{name}.jsonl" for name in ("alpha", "beta", "gamma")]
    write_comparison(files, tmp_path / "page.html", solutions=solutions)
    page = browser.new_page()
    page.set_default_timeout(60_000)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text("alpha, beta, gamma")
    expect(page.locator(SUMMARIES).first.locator(".by")).to_have_text(["alpha", "beta", "gamma"])
    between = page.get_by_role("combobox", name="Verifiers", exact=True)
    for choice, expected in (
        ("disagree (3)", ["item-0", "item-2", "item-3"]),
        ("agree (1)", ["item-1"]),
        ("only gamma is wrong (1)", ["item-0"]),
        ("only alpha is wrong (2)", ["item-2", "item-3"]),
    ):
        between.select_option(choice)
        assert ids(page) == expected
    page.locator(SUMMARIES).first.click()
    step = page.locator(".solution").first.locator(".step").nth(1)
    expect(step.locator("summary .cells .cell").first).to_have_text(".80")
    tags = ["✗ beta: judged wrong", "✗ gamma: judged wrong", "▲ wrong by the label"]
    expect(step.locator("summary .tag")).to_have_text(tags)
    expect(step.locator(".chains > h4")).to_have_text(["alpha", "beta", "gamma"])
    expect(step.locator(".chains").nth(1).locator(".chain > summary")).to_contain_text("0.100")
    page.locator("#query").fill("problem item-3")
    expect(page.get_by_role("status")).to_have_text("1 of 4 solutions")
    page.set_viewport_size({"width": 380, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert complaints == []
    page.close()


def test_two_thousand_solutions_draw_fifty(browser, tmp_path):
    page = browser.new_page()
    page.goto(make_page(tmp_path, [verdict(str(n), [[0.9, 0.2]]) for n in range(2000)]).as_uri())
    expect(page.get_by_role("status")).to_have_text("2,000 solutions")
    assert page.locator(".solution").count() == 50
    expect(page.locator("#page")).to_have_text("Page 1 of 40")
    page.close()
