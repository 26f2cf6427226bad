"""Judge two solutions with a GenPRM and print what it wrote.

    python examples/verify_solutions.py [MODEL]

MODEL is a directory or a Hub id, such as `GenPRM/GenPRM-7B` on a GPU. The default is the model of `make quickstart`.
"""

import sys

from genprm_trl import GenPRM
from genprm_trl.records import Solution

model = sys.argv[1] if len(sys.argv) > 1 else "outputs/quickstart/genprm"

problem = "A tank holds 40 litres of water. Emma pours in 3 buckets of 12 litres. How many litres are in the tank?"
solutions = [
    Solution(
        "right", problem, ["Step 1: The buckets hold 3 * 12 = 36 litres.", "Step 2: In the tank are 40 + 36 = 76."]
    ),
    Solution(
        "wrong", problem, ["Step 1: The buckets hold 3 * 12 = 46 litres.", "Step 2: In the tank are 40 + 46 = 86."]
    ),
]

# Four rationales for each solution; their rewards are averaged step by step.
with GenPRM.from_pretrained(model, n=4) as prm:
    for verdict in prm.verify_all(solutions):
        print(f"\n== {verdict.id}: rewards {[round(reward, 3) for reward in verdict.rewards]}")
        print(f"first wrong step: {verdict.prediction if verdict.prediction >= 0 else 'none'}")
        first_step = verdict.chains[0][0]
        print(first_step.rationale)
        for executed in first_step.code_rounds:
            print(f"ran in {1000 * executed.seconds:.1f} ms: {executed.status}, {executed.output!r}")
