"""The files of a recipe: its stages in order, and what each calls its output."""

RECIPE_FILES = {
    "rollout": "rollouts.jsonl",
    "label": "labels.jsonl",
    "rationalize": "critiques.jsonl",
    "consensus": "rationales.jsonl",
}
