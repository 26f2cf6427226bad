"""A tiny checkpoint of each kind of verifier, with the scores that its published inference gives.

Another kind is another row of `CHECKPOINTS`: what saves a checkpoint, and the published inference in plain torch.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
    Qwen2Model,
)

from genprm_trl.verifier.scorer_settings import StepScorerSettings
from tests.helpers.chat_templates import llama3, sentencepiece
from tests.helpers.tiny_models import tiny_tokenizer

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    # One head of 32 numbers, the least that engines take.
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
# What a judged text must not bring in.
_CHATML_MARKS = ("<|im_end|>", "<|im_start|>user\n", "<|endoftext|>")


def _sharpen_head(scorer: Any, checkpoint: Checkpoint) -> None:
    with torch.no_grad():
        scorer.model.get_submodule(checkpoint.head).weight.mul_(1e6)


@dataclass(frozen=True)
class Checkpoint:
    """A kind's tiny checkpoint.

    Attributes:
        save: Writes it, with random weights, into a directory.
        published: Scores of the steps of a problem, as the published code computes them from the directory's tokenizer
            and the loaded model.
        marks: Texts that stand for the separator, first, and for turns in what such a model reads.
        head: The last module before the scores.
        published_name: What a directory of the published checkpoint is called.
        options: Arguments of the kind.
        sharpen: Makes the scores of an opened verifier 0 and 1.
    """

    save: Callable[[Path], None]
    published: Callable[[Any, Any, str, Sequence[str]], list[float]]
    marks: tuple[str, ...]
    head: str
    published_name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    sharpen: Callable[[Any, Checkpoint], None] = _sharpen_head


def _config(kind: type, tokenizer: Any, **others: Any) -> Any:
    return kind(vocab_size=len(tokenizer), **{**_SIZES, **others})


def _seeded(build: Callable[[], nn.Module], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().float().eval()


def save_state(path: Path, config: Any, state: dict[str, torch.Tensor], tokenizer: Any, **fields: Any) -> None:
    """Writes weights under the names that a class of others gave them, with a config that names this class."""
    path.mkdir(parents=True, exist_ok=True)
    values = {**config.to_dict(), **fields}
    (path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, path / "model.safetensors", {"format": "pt"}
    )
    tokenizer.save_pretrained(path)


# ---- token classifiers ----


def _save_classifier(path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = _config(Qwen2Config, tokenizer, num_labels=2)
    _seeded(lambda: Qwen2ForTokenClassification(config), seed=4).save_pretrained(path)  # of 0, few scores are high
    tokenizer.save_pretrained(path)


def _classifier_scores(tokenizer: Any, model: PreTrainedModel, problem: str, steps: Sequence[str]) -> list[float]:
    ids, places = [tokenizer.bos_token_id, *tokenizer.encode(problem)], []
    for step in steps:
        ids += tokenizer.encode(step) + tokenizer.encode(" ;")
        places.append(len(ids) - 1)
    logits = model(torch.tensor([ids])).logits[0, places]
    return logits.softmax(-1)[:, 1].tolist()


# ---- Qwen2.5-Math-PRM ----


def qwen_tokenizer() -> Any:
    """The tiny tokenizer with the separator's token."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens(["<extra_0>"], special_tokens=True)
    return tokenizer


def _save_qwen(path: Path) -> None:
    tokenizer = qwen_tokenizer()
    config = _config(Qwen2Config, tokenizer)
    trunk = _seeded(lambda: Qwen2Model(config))
    width = config.hidden_size
    head = _seeded(lambda: nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)))
    state = {f"model.{name}": tensor for name, tensor in trunk.state_dict().items()}
    state |= {f"score.{name}": tensor for name, tensor in head.state_dict().items()}
    remote = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    save_state(path, config, state, tokenizer, architectures=["Qwen2ForProcessRewardModel"], auto_map=remote)


def _qwen_scores(tokenizer: Any, model: PreTrainedModel, problem: str, steps: Sequence[str]) -> list[float]:
    text = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."},
            {"role": "user", "content": problem},
            {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
        ],
        tokenize=False,
        add_generation_prompt=False,
    )
    ids = torch.tensor([tokenizer.encode(text)])
    logits = model.score(model.model(ids).last_hidden_state)
    mask = ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>")
    return logits[0].softmax(-1)[mask][:, 1].tolist()


# ---- Skywork-o1-Open-PRM ----


def _save_skywork(path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = _config(Qwen2Config, tokenizer)
    trunk = _seeded(lambda: Qwen2Model(config))
    summary = _seeded(lambda: nn.Linear(config.hidden_size, 1))
    state = {f"model.{name}": tensor for name, tensor in trunk.state_dict().items()}
    state |= {f"v_head.summary.{name}": tensor for name, tensor in summary.state_dict().items()}
    state["lm_head.weight"] = trunk.embed_tokens.weight.detach().clone()
    save_state(path, config, state, tokenizer, architectures=["Qwen2ForCausalLM"])


def _skywork_scores(tokenizer: Any, model: PreTrainedModel, problem: str, steps: Sequence[str]) -> list[float]:
    ids = tokenizer.encode(tokenizer.bos_token + problem + "\n")
    flags = [0] * len(ids)
    for step in steps:
        step_ids = [*tokenizer.encode(step), tokenizer.encode("\n")[-1]]
        ids += step_ids
        flags += [0] * (len(step_ids) - 1) + [1]
    values = model.v_head.summary(model.model(torch.tensor([ids])).last_hidden_state)[0, :, 0]
    return values[torch.tensor(flags) == 1].sigmoid().tolist()


# ---- Math-Shepherd ----


def _save_shepherd(path: Path) -> None:
    tokenizer = sentencepiece(words=["ки", "+", "-"])
    config = _config(MistralConfig, tokenizer)
    _seeded(lambda: MistralForCausalLM(config)).save_pretrained(path)
    tokenizer.save_pretrained(path)


def _shepherd_scores(tokenizer: Any, model: PreTrainedModel, problem: str, steps: Sequence[str]) -> list[float]:
    candidates = tokenizer.encode("+ -")[1:]
    assert len(candidates) == 2
    tag = tokenizer.encode("ки")[-1]
    output = "\n".join(f"Step {i}: {step} ки" for i, step in enumerate(steps, start=1))
    ids = torch.tensor([tokenizer.encode(f"{problem} {output}")])
    scores = model(ids).logits[:, :, candidates].softmax(-1)[:, :, 0]
    return scores[ids == tag].tolist()


# ---- RLHFlow ----


def _save_rlhflow(path: Path) -> None:
    tokenizer = llama3()
    config = _config(LlamaConfig, tokenizer)
    _seeded(lambda: LlamaForCausalLM(config)).save_pretrained(path)
    tokenizer.save_pretrained(path)


def _rlhflow_scores(tokenizer: Any, model: PreTrainedModel, problem: str, steps: Sequence[str]) -> list[float]:
    candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    conversation: list[dict[str, str]] = []
    scores = []
    for i, step in enumerate(steps):
        conversation += [
            {"role": "user", "content": f"{problem} {step}" if i == 0 else step},
            {"role": "assistant", "content": "+"},
        ]
        ids = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=False)
        scores.append(model(ids).logits[0, -3, candidates].softmax(-1)[0].item())
    return scores


# ---- implicit PRMs ----

_BETA = 0.3


def _causal(seed: int) -> Any:
    config = _config(Qwen2Config, tiny_tokenizer())
    return _seeded(lambda: Qwen2ForCausalLM(config), seed)


def _save_implicit(path: Path) -> None:
    reference = path.with_name("reference")
    for model, directory in ((_causal(6), path), (_causal(5), reference)):
        model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(path)
    StepScorerSettings("implicit", " ;", beta=_BETA, reference=str(reference)).save(path)


def _answer(tokenizer: Any, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """A prompt and the steps with their separators as token ids, and the end of each, that of the prompt first."""
    ids = tokenizer.apply_chat_template([{"role": "user", "content": problem}], add_generation_prompt=True)[
        "input_ids"
    ]
    ends = [len(ids)]
    for step in steps:
        ids += tokenizer.encode(step) + tokenizer.encode(" ;")
        ends.append(len(ids))
    return ids, ends


def _implicit_scores(tokenizer: Any, model: PreTrainedModel, problem: str, steps: Sequence[str]) -> list[float]:
    ids, ends = _answer(tokenizer, problem, steps)
    rows = torch.tensor([ids])
    ours, theirs = (
        each(rows).logits[0, :-1].float().log_softmax(-1).gather(1, rows[0, 1:, None])[:, 0]
        for each in (model, _causal(5).to(model.dtype))
    )
    ratios = [0.0, *(ours - theirs).tolist()]  # of the first token there is none
    sums = [_BETA * sum(ratios[start:end]) for start, end in itertools.pairwise(ends)]
    return [1 / (1 + math.exp(-each)) for each in sums]


def _sharpen_implicit(scorer: Any, checkpoint: Checkpoint) -> None:
    scorer.beta *= 1e6


# ---- process preference models ----


def _save_ppm(path: Path) -> None:
    config = _config(Qwen2Config, tiny_tokenizer(), num_labels=1)
    _seeded(lambda: Qwen2ForSequenceClassification(config)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    StepScorerSettings("ppm", " ;").save(path)


def _ppm_scores(tokenizer: Any, model: PreTrainedModel, problem: str, steps: Sequence[str]) -> list[float]:
    scores = []
    for count in range(1, len(steps) + 1):  # the model itself reads the last token of a text alone
        ids, _ = _answer(tokenizer, problem, steps[:count])
        scores.append(model(torch.tensor([ids])).logits[0, 0].double().sigmoid().item())
    return scores


CHECKPOINTS = {
    "token_classifier": Checkpoint(
        _save_classifier, _classifier_scores, (" ;", *_CHATML_MARKS), "score", options={"step_separator": " ;"}
    ),
    "qwen_prm": Checkpoint(_save_qwen, _qwen_scores, ("<extra_0>", *_CHATML_MARKS), "score.2", "Qwen2.5-Math-PRM-7B"),
    "skywork_prm": Checkpoint(
        _save_skywork, _skywork_scores, ("\n", *_CHATML_MARKS), "v_head.summary", "Skywork-o1-Open-PRM-Qwen-2.5-7B"
    ),
    "math_shepherd": Checkpoint(
        _save_shepherd, _shepherd_scores, (" ки\n", "ки", "</s>"), "lm_head", "math-shepherd-mistral-7b-prm"
    ),
    "rlhflow_prm": Checkpoint(
        _save_rlhflow,
        _rlhflow_scores,
        ("<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n+"),
        "lm_head",
        "Llama3.1-8B-PRM-Deepseek-Data",
    ),
    "implicit": Checkpoint(
        _save_implicit, _implicit_scores, (" ;", *_CHATML_MARKS), "lm_head", sharpen=_sharpen_implicit
    ),
    "ppm": Checkpoint(_save_ppm, _ppm_scores, (" ;", *_CHATML_MARKS), "score"),
}
