"""The families of word problems: how each is told, which operations solve it, and how its solution is worded.

A family is plain data. Its quantities are `q0, q1, …` in the order of `ranges`; `r0, r1, …` are the results of its
operations in order. In the texts `{name}`, `{item}` and the like stand for words from `words`. `{eq}` stands for an
equation like `14 * 12 = 168`, `{x}` and `{y}` for its two operands.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas", "Kira", "Leo")


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a plan.

    Attributes:
        expression: Two operands and one of `+ - * /` between them. In `q3 * r0`, `q3` is a quantity of the problem
            and `r0` the result of the first operation.
        purpose: What the result is, in words.
        texts: Sentences that state the equation, any of which may be used.
    """

    expression: str
    purpose: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of problems.

    Attributes:
        name: The family's name.
        texts: Tellings of the problem, any of which may be used.
        ranges: Smallest and largest value of each quantity.
        plan: The operations that solve it, in order; the last one's result is the answer.
        words: Choices for each word field of the texts.
    """

    name: str
    texts: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    plan: tuple[Operation, ...]
    words: dict[str, tuple[str, ...]]


FAMILIES: tuple[Family, ...] = (
    Family(
        name="packing",
        texts=(
            "{name} packs {q0} boxes with {q1} {item} each and {q2} bags with {q3} {item} each. "
            "Then {q4} {item} are given away. How many {item} are left?",
            "There are {q0} boxes of {q1} {item} and {q2} bags of {q3} {item} in the shop of {name}. "
            "After {q4} {item} are given away, how many {item} remain?",
        ),
        ranges=((11, 99), (3, 9), (11, 99), (3, 9), (50, 400)),
        plan=(
            Operation(
                "q0 * q1",
                "the {item} in boxes",
                ("The boxes hold {eq} {item}.", "{x} boxes with {y} {item} each make {eq} {item}."),
            ),
            Operation(
                "q2 * q3",
                "the {item} in bags",
                ("The bags hold {eq} {item}.", "{x} bags with {y} {item} each make {eq} {item}."),
            ),
            Operation(
                "r0 + r1",
                "all {item}",
                ("Together that is {eq} {item}.", "Boxes and bags hold {eq} {item}."),
            ),
            Operation(
                "r2 - q4",
                "the {item} left",
                ("This leaves {eq} {item}.", "After giving some away there are {eq} {item}."),
            ),
        ),
        words={"item": ("pens", "books", "coins", "stamps", "marbles", "cards")},
    ),
    Family(
        name="shopping",
        texts=(
            "{name} buys {q0} {item} for {q1} dollars each and {q2} {other} for {q3} dollars each. "
            "A coupon takes {q4} dollars off. How many dollars does {name} pay?",
            "At the market {item} cost {q1} dollars each and {other} cost {q3} dollars each. "
            "{name} takes {q0} {item} and {q2} {other} and has a coupon worth {q4} dollars. What is the price to pay?",
        ),
        ranges=((3, 9), (11, 99), (3, 9), (11, 99), (50, 400)),
        plan=(
            Operation(
                "q0 * q1",
                "the cost of the {item}",
                ("The {item} cost {eq} dollars.", "{x} {item} at {y} dollars are {eq} dollars."),
            ),
            Operation(
                "q2 * q3",
                "the cost of the {other}",
                ("The {other} cost {eq} dollars.", "{x} {other} at {y} dollars are {eq} dollars."),
            ),
            Operation(
                "r0 + r1",
                "the full price",
                ("Together they cost {eq} dollars.", "The full price is {eq} dollars."),
            ),
            Operation(
                "r2 - q4",
                "the price after the coupon",
                ("With the coupon the price is {eq} dollars.", "The coupon makes it {eq} dollars."),
            ),
        ),
        words={"item": ("shirts", "chairs", "lamps", "clocks"), "other": ("hats", "mirrors", "plates", "rugs")},
    ),
    Family(
        name="savings",
        texts=(
            "{name} earns {q0} dollars an hour and works {q1} hours. {name} already has {q2} dollars and then spends "
            "{q3} dollars on a {item}. How many dollars does {name} have now?",
            "{name} has saved {q2} dollars. For {q1} hours of work {name} gets {q0} dollars an hour. "
            "A {item} for {q3} dollars is bought. How much money is left?",
        ),
        ranges=((11, 99), (3, 9), (50, 400), (50, 600)),
        plan=(
            Operation(
                "q0 * q1",
                "the money earned",
                ("The work brings {eq} dollars.", "{name} earns {eq} dollars."),
            ),
            Operation(
                "r0 + q2",
                "the money with the savings",
                ("With the savings that is {eq} dollars.", "{name} then has {eq} dollars."),
            ),
            Operation(
                "r1 - q3",
                "the money after buying",
                ("After buying the {item} there are {eq} dollars.", "The {item} leaves {eq} dollars."),
            ),
        ),
        words={"item": ("bike", "phone", "guitar", "camera")},
    ),
    Family(
        name="travel",
        texts=(
            "A {item} drives {q0} hours at {q1} km an hour and then {q2} hours at {q3} km an hour. "
            "The whole way is {q4} km. How many km remain?",
            "{name} has to go {q4} km by {item}. The first {q0} hours go at {q1} km an hour, the next {q2} hours at "
            "{q3} km an hour. How far is it still?",
        ),
        ranges=((3, 9), (31, 99), (3, 9), (31, 99), (700, 1900)),
        plan=(
            Operation(
                "q0 * q1",
                "the first distance",
                ("The first part is {eq} km.", "{x} hours at {y} km an hour are {eq} km."),
            ),
            Operation(
                "q2 * q3",
                "the second distance",
                ("The second part is {eq} km.", "The next {x} hours at {y} km an hour are {eq} km."),
            ),
            Operation(
                "r0 + r1",
                "the distance so far",
                ("So far that is {eq} km.", "Both parts together are {eq} km."),
            ),
            Operation(
                "q4 - r2",
                "the distance that remains",
                ("There remain {eq} km.", "The rest of the way is {eq} km."),
            ),
        ),
        words={"item": ("train", "bus", "truck", "car")},
    ),
    Family(
        name="garden",
        texts=(
            "{name} plants {q0} rows of {q1} bushes, and {q2} bushes die. "
            "Each other bush gives {q3} {item} and the birds eat {q4} {item}. How many {item} are harvested?",
            "In a garden are {q0} rows with {q1} bushes each. A storm breaks {q2} bushes and each of the others "
            "bears {q3} {item}. Birds take {q4} {item}. How many {item} does {name} get?",
        ),
        ranges=((11, 60), (3, 9), (11, 99), (3, 9), (50, 400)),
        plan=(
            Operation(
                "q0 * q1",
                "the bushes planted",
                ("There are {eq} bushes.", "{x} rows of {y} bushes make {eq} bushes."),
            ),
            Operation(
                "r0 - q2",
                "the bushes alive",
                ("Of these {eq} bushes live.", "There stay {eq} bushes."),
            ),
            Operation(
                "r1 * q3",
                "the {item} that grow",
                ("They give {eq} {item}.", "{x} bushes with {y} {item} give {eq} {item}."),
            ),
            Operation(
                "r2 - q4",
                "the {item} without those the birds take",
                ("The birds leave {eq} {item}.", "The harvest is {eq} {item}."),
            ),
        ),
        words={"item": ("berries", "roses", "currants", "cherries")},
    ),
    Family(
        name="reading",
        texts=(
            "A {item} has {q0} pages. {name} reads {q1} pages a day for {q2} days and {q3} more pages on Sunday. "
            "How many pages are left to read?",
            "{name} reads {q1} pages on each of {q2} days and then {q3} pages on Sunday. "
            "The {item} has {q0} pages. How many pages are still unread?",
        ),
        ranges=((500, 1900), (11, 99), (3, 9), (50, 300)),
        plan=(
            Operation(
                "q1 * q2",
                "the pages read by day",
                ("On the days {name} reads {eq} pages.", "{x} pages on {y} days are {eq} pages."),
            ),
            Operation(
                "r0 + q3",
                "the pages read with Sunday",
                ("With Sunday that is {eq} pages.", "In all {name} reads {eq} pages."),
            ),
            Operation(
                "q0 - r1",
                "the pages left",
                ("There are {eq} pages left.", "Still unread are {eq} pages."),
            ),
        ),
        words={"item": ("novel", "diary", "script", "guide")},
    ),
    Family(
        name="bakery",
        texts=(
            "{name} bakes {q0} trays of {q1} {item}, but {q2} {item} burn. "
            "The good ones go into bags of {q3} and a bag sells for {q4} dollars. How many dollars come in?",
            "A bakery makes {q0} trays with {q1} {item} each and throws {q2} burnt {item} away. "
            "{name} fills bags with {q3} {item} and sells each bag for {q4} dollars. How much money is that?",
        ),
        ranges=((3, 9), (31, 99), (11, 99), (3, 9), (3, 29)),
        plan=(
            Operation(
                "q0 * q1",
                "the {item} baked",
                ("The trays hold {eq} {item}.", "{x} trays of {y} make {eq} {item}."),
            ),
            Operation(
                "r0 - q2",
                "the good {item}",
                ("Good are {eq} {item}.", "Without the burnt ones there are {eq} {item}."),
            ),
            Operation(
                "r1 / q3",
                "the number of bags",
                ("They fill {eq} bags.", "{x} {item} fill {eq} bags."),
            ),
            Operation(
                "r2 * q4",
                "the money for the bags",
                ("The bags bring {eq} dollars.", "{x} bags at {y} dollars bring {eq} dollars."),
            ),
        ),
        words={"item": ("rolls", "muffins", "cookies", "buns")},
    ),
    Family(
        name="excursion",
        texts=(
            "A school has {q0} classes of {q1} {item} and {q2} teachers. All go on a trip in buses for {q3} people, "
            "and a bus costs {q4} dollars. What do the buses cost?",
            "{name} plans a trip for {q0} classes with {q1} {item} each and for {q2} teachers. "
            "A bus has room for {q3} people and costs {q4} dollars. How many dollars are the buses?",
        ),
        ranges=((3, 19), (11, 40), (11, 99), (5, 20), (21, 99)),
        plan=(
            Operation(
                "q0 * q1",
                "the {item} of all classes",
                ("There are {eq} {item}.", "{x} classes of {y} make {eq} {item}."),
            ),
            Operation(
                "r0 + q2",
                "the people on the trip",
                ("With the teachers that is {eq} people.", "In all {eq} people go."),
            ),
            Operation(
                "r1 / q3",
                "the buses needed",
                ("They need {eq} buses.", "{x} people need {eq} buses."),
            ),
            Operation(
                "r2 * q4",
                "the cost of the buses",
                ("The buses cost {eq} dollars.", "{x} buses at {y} dollars cost {eq} dollars."),
            ),
        ),
        words={"item": ("children", "pupils", "students", "kids")},
    ),
    Family(
        name="factory",
        texts=(
            "A factory makes {q0} {item} a day for {q1} days and {q2} {item} a day for {q3} days. "
            "Of these {q4} are broken, and the good ones sell for {q5} dollars each. How many dollars is that?",
            "{name} runs a factory. It makes {q0} {item} on each of {q1} days, then {q2} {item} on each of {q3} days. "
            "The {q4} broken ones are thrown away. How much do the others bring at {q5} dollars each?",
        ),
        ranges=((11, 60), (3, 9), (11, 60), (3, 9), (50, 400), (3, 9)),
        plan=(
            Operation(
                "q0 * q1",
                "the {item} made first",
                ("At first it makes {eq} {item}.", "{x} {item} for {y} days are {eq} {item}."),
            ),
            Operation(
                "q2 * q3",
                "the {item} made later",
                ("Later it makes {eq} {item}.", "Then {x} {item} for {y} days are {eq} {item}."),
            ),
            Operation(
                "r0 + r1",
                "all {item}",
                ("Together that is {eq} {item}.", "In all it makes {eq} {item}."),
            ),
            Operation(
                "r2 - q4",
                "the good {item}",
                ("Good are {eq} {item}.", "Without the broken ones there are {eq} {item}."),
            ),
            Operation(
                "r3 * q5",
                "the money for the {item}",
                ("They bring {eq} dollars.", "{x} {item} at {y} dollars bring {eq} dollars."),
            ),
        ),
        words={"item": ("toys", "bolts", "dolls", "drones")},
    ),
    Family(
        name="tank",
        texts=(
            "A tank holds {q0} litres of {item}. {name} pours in {q1} buckets of {q2} litres. "
            "Then {q3} litres an hour leak out for {q4} hours. How many litres are in the tank?",
            "{name} fills {q1} buckets of {q2} litres into a tank with {q0} litres of {item}. "
            "It leaks {q3} litres an hour for {q4} hours. How many litres does it hold then?",
        ),
        ranges=((100, 900), (11, 60), (3, 9), (11, 60), (3, 9)),
        plan=(
            Operation(
                "q1 * q2",
                "the litres poured in",
                ("The buckets hold {eq} litres.", "{x} buckets of {y} litres are {eq} litres."),
            ),
            Operation(
                "q0 + r0",
                "the litres before the leak",
                ("The tank then has {eq} litres.", "With the buckets there are {eq} litres."),
            ),
            Operation(
                "q3 * q4",
                "the litres that leak out",
                ("The leak takes {eq} litres.", "{x} litres for {y} hours are {eq} litres."),
            ),
            Operation(
                "r1 - r2",
                "the litres left",
                ("This leaves {eq} litres.", "In the tank stay {eq} litres."),
            ),
        ),
        words={"item": ("water", "oil", "milk", "juice")},
    ),
)
