"""The checks of `genprm doctor --model`: what will work with a model. No weights are loaded."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from genprm_trl.conversation.settings import load_settings
from genprm_trl.conversation.template import ChatFormat, shows_date
from genprm_trl.doctor.checks import Finding, try_out, version_of
from genprm_trl.errors import ConfigError
from genprm_trl.generation.backends import local_directory
from genprm_trl.generation.hf.regimes import Regimes
from genprm_trl.generation.loading import context_length, load_config, load_tokenizer
from genprm_trl.verifier.genprm import has_published_name
from genprm_trl.verifier.kinds.token_classifier import adapter_separator, has_step_head, known_separator
from genprm_trl.verifier.opening import find_kind
from genprm_trl.verifier.step_tokens import DEFAULT_STEP_SEPARATOR

say = partial(Finding, "model")


@dataclass(frozen=True)
class Examined:
    """A model without its weights.

    Attributes:
        name: Its directory or Hub id.
        config: Its configuration; of an adapter, that of the model below.
        tokenizer: Its tokenizer.
        adapter: The adapter's configuration, if it is one.
    """

    name: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    adapter: dict[str, Any] | None = None


def examine_model(name: str) -> Iterator[Finding]:
    """Looks at the configuration, the tokenizer and the chat template of a model.

    Args:
        name: Directory or Hub id. Of the latter, those files are downloaded.
    """
    try:
        adapter = _adapter_of(name)
        below = name if adapter is None else str(adapter["base_model_name_or_path"])
        model = Examined(name, load_config(below), load_tokenizer(name), adapter)
    except ConfigError as error:
        way_out = "name the directory that save_pretrained wrote, or a model of the Hub"
        yield say("files", "failed", str(error), way_out)
        return
    for check in (check_kind, check_architecture, check_head, check_context, check_template, check_words, check_vllm):
        yield from check(model)


def _adapter_of(name: str) -> dict[str, Any] | None:
    file = find_adapter_config_file(str(local_directory(name) or name))
    if file is None:
        return None
    try:
        return dict(json.loads(Path(file).read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error


def check_kind(model: Examined) -> Iterator[Finding]:
    """What the directory holds: a verifier of which kind, or a model to start from."""
    settings = load_settings(model.name)
    try:
        kind = find_kind(model.name)
    except ConfigError as error:
        yield say("kind", "degraded", str(error).partition(": give")[0], "name another model, or give --kind")
        return
    if settings is not None:
        trained = f", trained in mode {', '.join(settings.modes)}" if kind == "genprm" else ""
        name = "GenPRM" if kind == "genprm" else "ThinkPRM"
        yield say("kind", "ok", f"a {name}{trained}, asked with turn_opening {settings.turn_opening}")
    elif has_published_name(model.name):
        yield say("kind", "ok", "a GenPRM of the paper's authors, asked as_published")
    elif kind == "genprm":
        yield say(
            "kind", "ok", "a causal model: a policy or reasoner, or what a training starts from; no verifier yet"
        )
    elif kind == "token_classifier" and model.adapter is None and model.config.num_labels != 2:
        yield say("kind", "degraded", f"a token classifier of {model.config.num_labels} labels", "train one with two")
    else:
        yield say("kind", "ok", f"a verifier of the kind {kind}")
        if kind == "token_classifier":
            yield from check_separator(model)
    if getattr(model.config, "auto_map", None):
        yield say("remote code", "ok", "comes with the model, is not needed and is not run")


def check_separator(model: Examined) -> Iterator[Finding]:
    """What ends a step for a classifier."""
    separator = known_separator(model.config, model.name)
    if separator is None and model.adapter is not None:
        separator = adapter_separator(model.config, model.name)
    shown = DEFAULT_STEP_SEPARATOR if separator is None else separator
    tokens = len(model.tokenizer(shown, add_special_tokens=False)["input_ids"])
    detail = f"{shown!r}, {tokens} token{'s' * (tokens != 1)}"
    if separator is None:
        fix = "give the one that it was trained with: --kind_options '{\"step_separator\": ...}'"
        yield say("step separator", "degraded", f"the configuration names none; {detail} by default", fix)
    else:
        yield say("step separator", "ok", detail)


def check_architecture(model: Examined) -> Iterator[Finding]:
    """Attention, packing, and what ties the rows of a batch to each other."""
    try:
        with torch.device("meta"):  # no weights
            shell = AutoModelForCausalLM.from_config(model.config)
    except Exception as error:
        fix = "use it as a classifier alone, or name another model"
        [why, *_] = [*str(error).splitlines(), ""]
        yield say("writing", "degraded", f"transformers has no such causal model: {why}", fix)
        return
    kinds = {"sdpa": shell._supports_sdpa, "flash_attention_2": shell._supports_flash_attn}
    known = [kind for kind, there in kinds.items() if there]
    fix = "" if known else "train with --attn_implementation eager, which takes more memory"
    yield say("attention", "ok" if known else "degraded", f"{', '.join(known) or 'eager alone'}", fix)
    if "position_ids" in inspect.signature(shell.forward).parameters:
        yield say("packing", "ok", "possible; the trainer checks that packed conversations stay apart")
    else:
        yield say("packing", "degraded", "the model takes no position ids", "train without --packing")
    regimes = Regimes(shell, left_padded=True)
    if regimes:
        yield say("batches", "ok", regimes.message())


def check_head(model: Examined) -> Iterator[Finding]:
    """Whether `genprm prm` can train it."""
    if has_step_head(model.config):
        yield say("classification head", "ok", "genprm prm can train it")
    else:
        yield say("classification head", "absent", "none for this architecture", "train a GenPRM of it: genprm sft")


def check_context(model: Examined) -> Iterator[Finding]:
    """How much text it takes."""
    config = model.config.get_text_config(decoder=True)
    try:
        length = context_length(model, model.tokenizer)
    except ConfigError as error:
        yield say("context", "degraded", str(error), "give --max_context")
        return
    window = getattr(config, "sliding_window", None)
    slides = window is not None and getattr(config, "use_sliding_window", True) and window < length
    detail = f"{length:,} tokens" + (f", of which some layers see {window:,}" if slides else "")
    fix = "" if length >= 8192 else "long solutions are judged in part: look for the status truncated"
    yield say("context", "degraded" if fix else "ok", detail, fix)


def check_template(model: Examined) -> Iterator[Finding]:
    """The chat template: is there one, and what is to know of it."""
    try:
        chat = ChatFormat(model.tokenizer)
    except ConfigError as error:
        yield say("chat template", "degraded", str(error), "give --chat_template_path; classifiers need none")
        return
    yield say("chat template", "ok", "holds conversations" + ("" if chat.takes_system else ", without a system role"))
    if shows_date(chat.source()):
        yield say("date", "ok", "the template shows today's; a run keeps the day on which it began")
    if chat.opens_thinking:
        fix = "" if load_settings(model.name) else "a policy's thoughts are no steps: see --thinking of genprm grpo"
        yield say("thinking", "degraded" if fix else "ok", "the template opens a thinking block", fix)
    if (whose := chat.untrained_end()) is not None:
        fix = "give a template that ends turns with a token"
        yield say("end of turn", "degraded", f"{whose} ends without a token, which training cannot teach", fix)
    control = chat.control_tokens()
    plain = sorted(chat.plain_markers() - {*control})
    if plain:
        yield say("role markers", "ok", f"plain text ({', '.join(plain)}); they are broken in texts of others")
    shown = ", ".join(control[:4]) + (", ..." if len(control) > 4 else "")
    yield say("special tokens", "ok", f"{len(control)} are broken in texts of others: {shown}")


def check_words(model: Examined) -> Iterator[Finding]:
    """Whether the words of a verdict can be told from their first token."""
    yes, no = (model.tokenizer.tokenize(f"\\boxed{{{word}}}") for word in ("Yes", "No"))
    at = next((place for place, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
    if at is None:
        fix = "take a tokenizer that can write both"
        yield say("Yes and No", "degraded", "the tokenizer writes both alike, so a verdict gives no reward", fix)
        return
    whole = all(word in tokens[at] for word, tokens in (("Yes", yes), ("No", no)))
    if whole:
        yield say("Yes and No", "ok", "single tokens")
    else:
        yield say("Yes and No", "ok", f"several tokens; the first ({yes[at]!r} against {no[at]!r}) gives the reward")


def check_vllm(model: Examined) -> Iterator[Finding]:
    """Whether vLLM, if it is installed, knows the architecture."""
    if (version := version_of("vllm")) is None:
        yield say("vLLM", "absent", "not installed", "pip install 'genprm-trl[vllm]'")
        return
    names = list(model.config.architectures or ())
    code = (
        f"from vllm import ModelRegistry as known\nassert {{*{names!r}}} & {{*known.get_supported_archs()}}, 'unknown'"
    )
    error = try_out({"vLLM": code})["vLLM"]
    if not error:
        yield say("vLLM", "ok", f"{version} knows {', '.join(names)}")
    else:
        why = f"{version} does not know {', '.join(names)}" if "AssertionError" in error else error
        yield say("vLLM", "degraded", why, "use --backend transformers, or a server")
