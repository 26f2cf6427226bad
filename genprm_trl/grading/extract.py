"""Finding the final answer in a text."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from genprm_trl.grading.thinking import is_still_thinking, without_thinking
from genprm_trl.grading.units import read_unit

# Everything here takes time linear in the text, whatever the text: possessive quantifiers, bounded gaps, one pass over
# braces.

# ---------------------------------------------------------------------------------------------------------------------
# Boxes

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*+\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s++([^\s{}$\\]++)")
# What may stand between two boxes that are one answer: "$x = \boxed{3}$ and $x = \boxed{4}$".
_BETWEEN = re.compile(
    r"(?:[\s$,;:&*{}]|\\[()\[\],;:!\\ ]|\\(?:text|mathrm|textbf|quad|qquad|left|right)(?![A-Za-z])"
    r"|\b(?:and|or|[Pp]art)\b"
    r"|\\?[A-Za-z]+(?:_\{?\w\}?|\(\w+\))?\s*=|\([a-h]\)|\(i{1,3}\))*"
)
_MAX_BETWEEN = 80
_NO_UNITS = frozenset(("in", "at", "to", "second"))  # they begin what is said of the answer
_BEHIND = re.compile(
    r"\s*+\\%|_\{?\w+\}?|(?:\s|~|\\[,;:! ])*+\\(?:text|mathrm|mbox)\s*+\{([^{}]{1,40})\}(?:\^\{?[23]\}?)?"
    r"|\$?\s*+([A-Za-z]{2,12})(?![A-Za-z])"
)
_MINUS = re.compile(r"(?:^|[=$(\[,])\s*-\s*$")


@dataclass(frozen=True, slots=True)
class _Found:
    """An answer, and its place in the text."""

    answer: str
    start: int
    end: int


def _boxes(text: str) -> list[_Found]:
    """The boxes that are closed and not blank, in order; of boxes in boxes the innermost."""
    opened: list[tuple[int, int] | None] = []
    found: list[_Found] = []
    for token in _BRACES.finditer(text):
        mark = token.group()
        if mark == "}":
            box = opened.pop() if opened else None
            if box is None or (found and found[-1].start > box[0]):
                continue
            content = text[box[1] : token.start()].strip()
            if content:
                end = token.end()
                sign = "-" if _MINUS.search(text[max(box[0] - 10, 0) : box[0]]) else ""
                found.append(_Found(f"{sign}{content}{_behind(text, end, content)}", box[0], end))
        elif mark == "{":
            opened.append(None)
        elif mark.endswith("{") and len(mark) > 2:
            opened.append((token.start(), token.end()))
    return found


def _behind(text: str, end: int, content: str) -> str:
    """What stands behind a box and belongs to its answer: a percent sign, a base, a unit of measure."""
    behind = _BEHIND.match(text, end)
    if behind is None:
        return ""
    words = behind[1] or behind[2]
    if words is None:
        return behind.group()
    has_words = re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", content)) is not None
    if has_words or words.lower() in _NO_UNITS or not read_unit(words).dimension:
        return ""
    return behind.group().lstrip("$")


def _last_boxes(text: str) -> _Found | None:
    """The last box, with those before it that belong to the same answer."""
    boxes = _boxes(text)
    if not boxes:
        for bare in _BARE_BOX.finditer(text):
            boxes = [_Found(bare.group(1).rstrip(".,;"), bare.start(), bare.end())]
        return boxes[0] if boxes and boxes[0].answer else None
    last = boxes.pop()
    parts, start = {last.answer: None}, last.start
    while boxes:
        before = boxes.pop()
        if start - before.end > _MAX_BETWEEN or not _BETWEEN.fullmatch(text, before.end, start):
            break
        start = before.start
        parts[before.answer] = None
    return _Found(", ".join(reversed(parts)), start, last.end)


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` (or `\fbox{...}`) that is closed and not blank, or None.

    Boxes with nothing but `and`, a comma or `x =` between them are one answer.

    Examples:
        >>> extract_boxed(r"Either $x = \boxed{3}$ or $x = \boxed{4}$.")
        '3, 4'
    """
    found = _last_boxes(text)
    return found.answer if found is not None else None


# ---------------------------------------------------------------------------------------------------------------------
# Other marks

_HASHES = re.compile(
    r"####[^\S\n]*+(?:(?:the )?(?:final )?answer(?: is|[^\S\n]*+:)[^\S\n]*+:?[^\S\n]*+)?(?=\S)"
    r"|^\#{1,3}[^\S\n]++(?=[-$.\d][-$.,\d]*+\s*+\Z)",
    re.IGNORECASE | re.MULTILINE,
)
_TAGGED = re.compile(r"(?<![`\"'])<(/?)answer>(?![`\"']| tags?\b)", re.IGNORECASE)
# Where a model ends its turn; what follows is another's.
_TURN_END = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end_of_turn|end|return|END_OF_TURN_TOKEN|end_of_solution)\|>"
    r"|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>"
)
_IS = r"\s*+(?:\*\*|__)?\s*+(?:is|are|was|would be|should be|will be|must be|:|=)(?![A-Za-z])"
_ANSWER = re.compile(
    r"\b(?:answers?|ans|(?:correct|right|best) (?:option|choice))\b"
    rf"(?:\s*+\([^()\n]{{0,40}}\)|\s+(?:to|of|for|in) [^.:\n=]{{0,80}}?(?=\s(?:is|are)\s))?{_IS}\s*+:?\s*+(?=\S)"
    r"|答案\s*+(?:是|为|：|:)\s*+(?=\S)"
    r"|\bsolutions?\s++(?:is|are)\s*+:?\s*+(?=[$\\\d(-])"
    r"|^(?:[#*_]|[^\S\n])*+(?:the )?(?:final )?answer[*_:]*+[^\S\n]*+\n\s*+(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
_A_LINE = re.compile(r"^A:[^\S\n]*+(?=\S)", re.MULTILINE)
_VALUE_FIRST = re.compile(r"[\s*_$(\[{\\-]*+(?:\d|\\?[$(\[]|\\[A-Za-z])")
# A policy that goes on with the next question.
_QUESTION = r"(?:question|problem|exercise|example|instruction|human|user|q)\b[^\S\n]*+"
_NEXT_QUESTION = re.compile(
    rf"^[^\S\n]*+(?:(?:\#{{1,6}}[^\S\n]*+|\*\*){_QUESTION}\d*+[^\S\n]*+(?:\*\*)?[^\S\n]*+(?:[:.]|$)"
    rf"|{_QUESTION}(?:\d++[^\S\n]*+(?:[:.]|$)|[:.]))"
    r"|(?<=\s)(?-i:Human|User|Question)[^\S\n]*+:",
    re.IGNORECASE | re.MULTILINE,
)
_ABBREVIATION = re.compile(
    r"\b(?:sq|cu|ft|in|approx|vs|mr|mrs|ms|dr|st|no|[ap]\.m|[ap]|u\.s|u|i\.e|e\.g|rs|jan|feb|mar|apr|aug|sept?|oct|nov"
    r"|dec)\.$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!\\)(?<!\.\.)[.!?](?=\s|$)|[。！？]")
_DELIMITERS = (("**", "**"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"))
_DISPLAYS = (("\\[", "\\]"), ("$$", "$$"), ("\\(", "\\)"), ("$", "$"), ("```", "```"))
_MAX_MARKS = 50
_MAX_BLOCK = 20_000  # characters
_LABEL = re.compile(
    r"(?:\*\*)?(?:solution|result|total|ans)(?:\*\*)?[^\S\n]*+:(?:\*\*)?(?=\s*+\S)|=>(?=\s*+\S)", re.IGNORECASE
)
_BULLET = re.compile(r"\s*(?:[-*•+]|\d{1,2}[.)])\s+(?=\S)")


def extract_answer(text: str) -> str | None:
    r"""The final answer that a text marks as such, or None.

    Looked for in this order, the last one of its kind: `<answer>...</answer>`, `\boxed{...}`, `#### ...` (GSM8K),
    `the answer is ...` and `Answer: ...`, and a last line `A: ...` (GSM8K's model solutions). A mark behind the last
    box wins if a value follows it. What stands in a thinking block is no answer, and a text that ends in one has none.
    Nor is what a policy writes when it goes on with another question or turn.

    Examples:
        >>> extract_answer("2 + 2 = 4, so the answer is **4**.")
        '4'
    """
    if is_still_thinking(text):
        return None
    return _marked(_without_next_question(_turn(without_thinking(text))))


def final_answer(text: str) -> str | None:
    """The answer that a text marks, else its last sentence that may hold one; None if there is nothing."""
    if is_still_thinking(text):
        return None
    text = _without_next_question(_turn(without_thinking(text)))
    marked = _marked(text)
    return marked if marked is not None else _last_line(text)


def before_cut(text: str) -> str:
    """What counts of a text that a bound has cut off: without thoughts, up to its last whole sentence, line or box.

    It is empty if no answer is marked there, or if the rest adds to an answer without a box. What stops in the middle
    may be the beginning of another answer, as 12 is that of 125.

    Examples:
        >>> before_cut("It is 125. The answer is 12")
        ''
        >>> before_cut("The answer is 125. To ch")
        'The answer is 125. '
    """
    if is_still_thinking(text):
        return ""
    text = _turn(without_thinking(text))
    boxes = _boxes(text)
    sentences = [match.end() + 1 for match in _SENTENCE_END.finditer(text) if match.end() < len(text)]
    end = max(text.rfind("\n") + 1, boxes[-1].end if boxes else 0, *sentences[-1:])
    answer = extract_answer(text[:end])
    if answer is None or not (boxes or answer == extract_answer(text)):
        return ""
    return text[:end]


def _turn(text: str) -> str:
    """The first turn that a text holds, which is whole if a token ends it."""
    parts = _TURN_END.split(text)
    for number, part in enumerate(parts, 1):
        if part.strip():
            return part if number == len(parts) else part + "\n"
    return parts[-1]


def _tagged(text: str) -> str | None:
    """What stands between the last `<answer>` and its end, unless a box follows."""
    inner, start = None, None
    for tag in _TAGGED.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            inner, start, end = text[start : tag.start()], None, tag.end()
    if start is not None:
        return text[start:]
    return inner if inner is not None and text.find("\\boxed", end) < 0 else None


def _marked(text: str) -> str | None:
    tagged = _tagged(text)
    if tagged is not None and tagged.strip():
        return _marked(tagged) or _last_line(tagged)
    box = _last_boxes(text)
    if box is not None:
        bare = text.rfind("\\boxed", box.end)
        for mark in (*_HASHES.finditer(text, box.end), *_ANSWER.finditer(text, box.end)):
            if mark.end() > bare and _VALUE_FIRST.match(text, mark.end()):
                answer = _block(text, mark.end())
                if answer:
                    return answer
        return box.answer
    for pattern in (_HASHES, _ANSWER, _A_LINE):
        for mark in reversed(deque(pattern.finditer(text), maxlen=_MAX_MARKS)):
            if _is_heading(text, mark) or (pattern is _A_LINE and not text[: mark.start()].strip()):
                continue
            answer = _block(text, mark.end())
            if answer:
                return answer
    return None


def _is_heading(text: str, mark: re.Match[str]) -> bool:
    """Whether a mark is the title of what follows: `#### Step 1`, `Answer: First we add ...`."""
    line, _, more = text[mark.end() : mark.end() + _MAX_BLOCK].partition("\n")
    if not more.strip():
        return False
    if mark.group().startswith("####"):
        return bool(re.match(r"[*_\s]*[A-Za-z]{2,}", line))
    return len(re.findall(r"(?<!\\)\b[A-Za-z]{2,}", line)) > 8 and ":" in mark.group()


def _without_next_question(text: str) -> str:
    """The text up to where its author goes on with another question, once it has given an answer."""
    patterns = (_BRACES, _HASHES, _ANSWER, _TAGGED)
    firsts = [match.end() for pattern in patterns if (match := _first(pattern, text)) is not None]
    if not firsts:
        return text
    following = _NEXT_QUESTION.search(text, min(firsts))
    if following is not None:
        text = text[: following.start()]
    hashes = _HASHES.search(text)
    if hashes is not None and _VALUE_FIRST.match(text, hashes.end()):
        line = text.find("\n", hashes.end())
        if line >= 0 and "?" in text[line:]:
            return text[:line]
    return text


def _first(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    if pattern is _BRACES:
        return re.search(r"\\boxed|\\fbox", text)
    return pattern.search(text)


def _block(text: str, start: int) -> str:
    """The answer that begins here: the rest of the sentence, or what stands in a display, a list or a fence."""
    rest = text[start : start + _MAX_BLOCK].lstrip()
    for left, right in _DISPLAYS:
        if rest.startswith(left):
            end = rest.find(right, len(left))
            inner = rest[len(left) : end]
            inline = left in ("$", "\\(") and not (inner.startswith("\n") or "\\begin" in inner)
            if end > 0 and inner.strip() and not inline:
                if left == "```":
                    language, _, code = inner.partition("\n")
                    inner = code if code.strip() and language.strip().isalpha() else inner
                return _trim(" ".join(inner.split()))
            if end < 0 and left in ("\\[", "$$"):  # never closed
                rest = rest[len(left) :].lstrip()
                break
    place = text.find(rest[:1], start) if rest else start
    if _BULLET.match(rest) and not text[text.rfind("\n", 0, place) + 1 : place].strip():
        items = []
        for line in rest.split("\n"):
            if not _BULLET.match(line):
                break
            items.append(_trim(line[_BULLET.match(line).end() :]))  # type: ignore[union-attr]
        return ", ".join(items)
    return _trim(_open_formula(rest))


def _open_formula(rest: str) -> str:
    """The first line, and the lines up to where a formula ends that it leaves open."""
    line, _, _more = rest.partition("\n")
    begun = re.findall(r"\\begin\{(\w+\*?)\}", line)
    if begun and f"\\end{{{begun[0]}}}" not in line:
        end = rest.find(f"\\end{{{begun[0]}}}")
        if end > 0:
            close = rest.find("\n", end)
            return " ".join(rest[: close if close > 0 else len(rest)].split())
    return line


def _sentence(text: str) -> str:
    """The first sentence."""
    last = len(text.rstrip()) - 1
    for end in _SENTENCE_END.finditer(text):
        before = text[max(end.end() - 12, 0) : end.end()]
        if end.group() == "!" and re.search(r"[\d)}]!$", before):
            continue  # a factorial
        if end.end() > last or not _ABBREVIATION.search(before):
            return text[: end.start()]
    return text


def _trim(text: str) -> str:
    """Takes the rest of the sentence off, and emphasis and math delimiters."""
    text = _sentence(text).strip().rstrip(",;:").strip()
    if text.count("**") == 1:  # the mark itself was emphasised: `**Answer:** 5`
        text = text.replace("**", "").strip()
    for left, right in _DELIMITERS:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            inner = text[len(left) : -len(right)]
            # `$a$ and $b$` is not one formula.
            if left not in inner and right not in inner:
                text = inner.strip()
    return text.rstrip(".") if text.endswith(".") and not text.endswith("..") else text


def _last_line(text: str) -> str | None:
    """The last sentence of the last line that holds a value, or the line itself."""
    text = text.rstrip()
    for left, right in _DISPLAYS:
        if text.endswith(right) and left != "$":
            start = text.rfind(left, max(0, len(text) - _MAX_BLOCK), len(text) - len(right))
            while start > 0 and text[start - 1] == "\\":  # the space between rows, `\\[2pt]`
                start = text.rfind(left, 0, start)
            inner = text[start + len(left) : -len(right)].strip() if start >= 0 else ""
            if inner and right not in inner and ("\n" in text[start:] or left != "\\("):
                return " ".join(inner.split())
    line = text.rpartition("\n")[2].strip()
    label = _LABEL.match(line)
    line = line[label.end() :].strip() if label is not None else line
    if len(re.findall(r"(?<!\\)\b[A-Za-z]{2,}", line[:5_000])) < 5:
        return line or None
    rest, sentences = line, list[str]()
    while rest and len(sentences) < 200:
        sentence = _sentence(rest)
        sentences += [part for part in re.split(r"\\\]|\$\$(?=\s)", sentence) if part.strip()]
        rest = rest[len(sentence) :].lstrip(".!? ")
    for sentence in reversed(sentences):
        if re.search(r"\d", sentence):
            return sentence.strip()
    return line
