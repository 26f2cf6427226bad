"""Run the lm-evaluation-harness with this project's tasks and the model `genprm`.

The words are those of `lm_eval` itself:

  genprm lm-eval --model genprm --model_args pretrained=DIR,n=8 --tasks processbench_genprm
  genprm lm-eval --model vllm --model_args pretrained=NAME --apply_chat_template --tasks processbench
  genprm lm-eval ls tasks
  genprm lm-eval validate --tasks processbench

`genprm lm-eval --path` prints the directory of the tasks, for the stock command:

  lm_eval --include_path "$(genprm lm-eval --path)" --tasks processbench --model hf --model_args pretrained=NAME

What follows is the harness's own help.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def option_parser() -> argparse.ArgumentParser:
    """The harness's parser with `--path`; only `--path` if the harness is not installed."""
    try:
        from lm_eval._cli import HarnessCLI
    except ImportError:
        parser = argparse.ArgumentParser(prog="genprm lm-eval")
    else:
        parser = HarnessCLI()._parser
    parser.add_argument("--path", action="store_true", help="Print the directory of this project's tasks.")
    return parser


def run_words(words: Sequence[str]) -> int | None:
    """Passes the words on to the harness unchanged."""
    if list(words) == ["--path"]:
        from genprm_trl.harness.tasks import tasks_path

        print(tasks_path())
        return 0
    if not words or list(words) in (["-h"], ["--help"]):
        print(f"usage: genprm lm-eval (--path | WORDS OF lm_eval ...)\n\n{(__doc__ or '').strip()}\n", flush=True)
    from genprm_trl.harness.command import run_harness

    run_harness(words or ["--help"])
    return 0
