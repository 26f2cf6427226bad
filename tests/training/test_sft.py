"""`GenPRMTrainer`: what is trained on, in which tokens, and that training means the same however it is run."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import logging
import os
import subprocess
import sys
from typing import Any, ClassVar

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import (
    AttentionInterface,
    BloomConfig,
    BloomForCausalLM,
    DataCollatorWithPadding,
    OPTConfig,
    OPTForCausalLM,
    TrainingArguments,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from trl import GRPOConfig, SFTConfig, SFTTrainer

from genprm_trl import GenPRMConfig, GenPRMTrainer
from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.settings import ModelSettings, load_settings
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.generation.loading import load_tokenizer
from genprm_trl.protocol import MODES, GenPRMProtocol, Rationale
from genprm_trl.records import Solution
from genprm_trl.training.callbacks import VerificationCallback
from genprm_trl.training.sft.data import ConversationEncoder, read_row
from genprm_trl.training.sft.trainer import verdict_metrics
from tests.helpers import chat_templates
from tests.helpers.forked import in_two_processes
from tests.helpers.paths import ROOT
from tests.helpers.replay_generator import ReplayGenerator
from tests.helpers.sft import config, losses, rationale, records, train_and_report, trainer
from tests.helpers.tiny_models import CHATML_TEMPLATE, tiny_model, tiny_tokenizer


def trained_text(row: dict[str, Any]) -> str:
    return tiny_tokenizer().decode([token for token in row["labels"] if token != -100])


# --- Token ids and labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_tokenizer", "mode"),
    [
        *((tiny_tokenizer, mode) for mode in MODES),
        *((make, "full") for make in (chat_templates.deepseek, chat_templates.llama3, chat_templates.merging)),
    ],
)
async def test_a_model_is_asked_in_the_tokens_that_it_was_trained_on(make_tokenizer, mode):
    from genprm_trl import GenPRM
    from genprm_trl.sandbox import LocalSandbox

    tokenizer = make_tokenizer()
    [record] = records(1, steps=3)
    encoder = ConversationEncoder(tokenizer, mode=mode)
    encoded = encoder.encode(read_row(record, mode))
    generator = ReplayGenerator(tokenizer, tokenizer.decode(encoded.input_ids))
    sandbox = LocalSandbox() if MODES[mode].execute else None
    async with GenPRM(generator, sandbox, GenPRMProtocol(mode), chat=ChatFormat(tokenizer)) as prm:
        verdict = await prm.verify(record.solution)

    assert [judgement.status for judgement in verdict.chains[0]] == ["ok"] * 3
    assert verdict.rewards == [float(label) for label in record.labels]
    for prompt in generator.prompts:
        assert encoded.input_ids[: len(prompt)] == prompt
        # What the model was asked to write here is what it was trained to write here.
        assert encoded.labels[len(prompt)] == encoded.input_ids[len(prompt)]
    for position, judgement, yes, no in encoded.verdicts:
        assert encoded.input_ids[position] == (yes if judgement else no)
        assert yes != no
    # The end of each turn is trained on, so that the model stops.
    ends = [
        i for i, token in enumerate(encoded.input_ids) if token == tokenizer.eos_token_id and encoded.labels[i] != -100
    ]
    assert len(ends) == 3


def test_the_loss_is_on_what_the_model_must_write(tmp_path):
    [record] = records(1, steps=1)
    run = trainer(tmp_path, [record])
    row = run.train_dataset[0]
    assert trained_text(row) == (
        "Paragraph 1 adds.\n</analyze>\nprint(0 + 0 == 0)\n```\nThat is it.\n</verify>\n"
        "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n<|im_end|>"
    )
    chat = ChatFormat(tiny_tokenizer())
    text = chat.tokenizer.decode(row["input_ids"])
    assert text == chat.tokenizer.apply_chat_template(
        GenPRMProtocol().messages(record.solution.problem, record.solution.steps, record.rationales), tokenize=False
    )


def test_interpreter_output_and_forced_prefixes_can_be_trained_on(tmp_path):
    rows = records(1, steps=1)
    with_output = trained_text(trainer(tmp_path, rows, train_on_interpreter_output=True).train_dataset[0])
    assert "print(0 + 0 == 0)\n```\n[Code Output]\n\n```\nTrue\n```\nThat is it." in with_output
    assert "Let's analyze" not in with_output
    with_prefix = trained_text(trainer(tmp_path, rows, train_on_forced_prefix=True).train_dataset[0])
    assert with_prefix.startswith("<analyze>\nLet's analyze the Paragraph 1 step by step: Paragraph 1 adds.")
    assert "<verify>\nLet's use python code" in with_prefix
    assert "[Code Output]" not in with_prefix


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("analysis", "Paragraph 1 adds.\n</analyze>\n{Yes}$\n</output>\n<|im_end|>"),
        (
            "analysis_code",  # the model imagines the output, so it is the model's own text
            "Paragraph 1 adds.\n</analyze>\nprint(0 + 0 == 0)\n```\n[Code Output]\n\n```\nTrue\n```\nThat is it.\n"
            "</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n<|im_end|>",
        ),
        (
            "code_execution",
            "print(0 + 0 == 0)\n```\nThat is it.\n</verify>\n"
            "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n<|im_end|>",
        ),
        ("direct", "{Yes}$\n</output>\n<|im_end|>"),
    ],
)
def test_a_mode_leaves_out_what_it_does_not_write(tmp_path, mode, expected):
    run = trainer(tmp_path, records(1, steps=1), mode=mode)
    assert trained_text(run.train_dataset[0]) == expected
    assert run.model_settings.modes == (mode,)


def test_rows_keep_their_own_modes(tmp_path):
    full, direct = records(2, steps=1)
    direct.rationales = [Rationale(1, direct.labels[0]).render()]
    direct.source = {"mode": "direct"}
    run = trainer(tmp_path, [full, direct])
    texts = [tiny_tokenizer().decode(row["input_ids"]) for row in run.train_dataset]
    assert "step by step.<|im_end|>" in texts[0]
    assert "in solution directly." in texts[1]
    assert trained_text(run.train_dataset[1]) == "{No}$\n</output>\n<|im_end|>"
    assert run.model_settings.modes == ("full", "direct")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_modes_of_a_stream_are_those_that_were_read(tmp_path, workers):
    rows = records(6, steps=1)
    for record in rows[:2]:
        record.rationales, record.source = [Rationale(1, record.labels[0]).render()], {"mode": "direct"}
    made = [record.to_dict() for record in rows]
    of_list = trainer(tmp_path, made, max_steps=3, per_device_train_batch_size=2)
    run = trainer(tmp_path, stream(made), max_steps=3, per_device_train_batch_size=2, dataloader_num_workers=workers)
    run.train()
    run.save_model()
    assert load_settings(tmp_path) == of_list.model_settings == ModelSettings(modes=("full", "direct"))


def test_tokenized_rows_of_unknown_mode_are_warned_of(tmp_path, caplog):
    encoded = trainer(tmp_path, mode="direct").train_dataset
    assert "do not show their mode" not in caplog.text
    for rows in (encoded, stream(list(encoded))):
        caplog.clear()
        trainer(tmp_path, rows)
        assert "do not show their mode: genprm.json will say that it is full. Name another with the" in caplog.text
        caplog.clear()
        assert trainer(tmp_path, rows, mode="direct").model_settings.modes == ("direct",)
        assert "do not show their mode" not in caplog.text


def test_labels_of_steps_beside_token_ids_are_no_labels_of_tokens(tmp_path):
    row = {"prompt": "1 + 1?", "completions": ["1 + 1 = 2", "So 3."], "labels": [True, False]}
    expected = trainer(tmp_path, [row], mode="direct").train_dataset[0]
    rows = Dataset.from_list([{**row, "input_ids": [5, 6, 7]}])
    for given in (rows, rows.to_iterable_dataset()):
        assert next(iter(trainer(tmp_path, given, mode="direct").train_dataset)) == expected
    with pytest.raises(DataError, match=r"^train_dataset, row 1, field 'labels': must be as many as the input_ids"):
        trainer(tmp_path, rows.remove_columns(["prompt", "completions"]))


def test_forms_of_rows_agree(tmp_path):
    made = records(3)
    rows = [record.to_dict() for record in made]
    protocol = GenPRMProtocol()
    conversations = [
        {"messages": protocol.messages(record.solution.problem, record.solution.steps, record.rationales)}
        for record in made
    ]
    forms = [made, rows, Dataset.from_list(rows), conversations, Dataset.from_list(conversations)]
    encoded = [trainer(tmp_path, form).train_dataset.to_dict() for form in forms]
    assert all(one == encoded[0] for one in encoded[1:])
    streamed = trainer(tmp_path, Dataset.from_list(rows).to_iterable_dataset())
    assert [row["labels"] for row in streamed.train_dataset] == encoded[0]["labels"]
    streamed.train()
    assert len(losses(streamed)) == 2


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "1 + 1 + 1?", "steps": ["1 + 1 = 2", "2 + 1 = 4", "So 4."], "label": 1},
        {"prompt": "1 + 1 + 1?", "completions": ["1 + 1 = 2", "2 + 1 = 4"], "labels": [True, False]},
        Solution("s", "1 + 1 + 1?", ["1 + 1 = 2", "2 + 1 = 4", "So 4."], label=1),
    ],
)
def test_the_direct_baseline_needs_only_labels(tmp_path, row):
    run = trainer(tmp_path, [row], mode="direct")
    # Steps after the first wrong one have no known label.
    assert trained_text(run.train_dataset[0]) == "{Yes}$\n</output>\n<|im_end|>{No}$\n</output>\n<|im_end|>"
    assert "1 + 1 + 1?\n1 + 1 = 2<|im_end|>" in tiny_tokenizer().decode(run.train_dataset[0]["input_ids"])
    with pytest.raises(DataError, match=r"train_dataset, row 1, field 'rationales': missing.*mode='direct'"):
        trainer(tmp_path, [row])


@pytest.mark.parametrize("mode", ["full", "direct"])
@pytest.mark.parametrize("make_tokenizer", [chat_templates.chatml, chat_templates.deepseek])
def test_published_conversations_are_trained_in_the_ids_of_their_text(make_tokenizer, mode):
    [record] = records(1, steps=3)
    tokenizer = make_tokenizer()
    encoded = ConversationEncoder(tokenizer, "as_published", mode=mode).encode(read_row(record, mode))
    kept = ConversationEncoder(tokenizer, "as_published_ids_kept", mode=mode).encode(read_row(record, mode))
    text = tokenizer.decode(encoded.input_ids)
    assert text == tokenizer.decode(kept.input_ids)
    assert encoded.input_ids == tokenizer.encode(text, add_special_tokens=False)
    assert len(encoded.verdicts) == len(kept.verdicts) == 3
    assert [judged[1] for judged in encoded.verdicts] == [judged[1] for judged in kept.verdicts]
    for (at, judgement, yes, no), label in zip(encoded.verdicts, record.labels, strict=True):
        assert judgement == int(label)
        assert encoded.input_ids[at] == encoded.labels[at] == (yes if label else no)
        before = tokenizer.decode(encoded.input_ids[:at])
        assert (before + tokenizer.decode([yes]))[-20:].endswith(("{Yes", "{Y"))
        assert tokenizer.decode([no]).startswith(("N", "{N"))


def test_the_first_turn_and_the_opening_of_turns_can_be_set(tmp_path):
    rows = records(1)
    text = tiny_tokenizer().decode(trainer(tmp_path, rows, first_turn="demonstration").train_dataset[0]["input_ids"])
    assert "user\nQuestion: What is 0 + 1?\n\nStep 1: 0 + 0 = 0.<|im_end|>" in text
    run = trainer(tmp_path, rows, turn_opening="as_published")
    assert run.model_settings == ModelSettings("as_published", "evaluation", ("full",))


def test_the_chat_template_can_be_given(tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text(CHATML_TEMPLATE.replace("<|im_start|>", "<|im_start|>dear "), encoding="utf-8")
    run = trainer(tmp_path, chat_template_path=str(template))
    assert "<|im_start|>dear user\n" in tiny_tokenizer().decode(run.train_dataset[0]["input_ids"])
    bare = copy.deepcopy(tiny_tokenizer())
    bare.chat_template = None
    with pytest.raises(ConfigError, match="chat_template_path"):
        trainer(tmp_path, tokenizer=bare)


def test_long_conversations_are_cut_after_a_whole_turn(tmp_path, caplog):
    [record] = records(1, steps=5)
    whole = ConversationEncoder(tiny_tokenizer())
    lengths = {}
    for turns in range(1, 6):
        part = dataclasses.replace(record, rationales=record.rationales[:turns], labels=record.labels[:turns])
        lengths[turns] = len(whole.encode(read_row(part)).input_ids)
    for turns in range(1, 5):
        for bound in (lengths[turns], lengths[turns + 1] - 1):
            encoder = ConversationEncoder(tiny_tokenizer(), max_length=bound)
            encoded = encoder.encode(read_row(record))
            assert (len(encoded.input_ids), len(encoded.verdicts), encoded.cut) == (lengths[turns], turns, 5 - turns)

    with caplog.at_level(logging.WARNING):
        run = trainer(tmp_path, [record, records(1, steps=1)[0]], max_length=lengths[2])
    assert [len(row["input_ids"]) for row in run.train_dataset] == [lengths[2], lengths[1]]
    assert "3 turns at the end of 1 conversations left out" in caplog.text


def test_rows_that_fit_no_turn_are_dropped(tmp_path, caplog):
    long, short = records(2, steps=1)
    long.solution.problem *= 50
    with caplog.at_level(logging.WARNING):
        run = trainer(tmp_path, [long, short], max_length=300)
    assert len(run.train_dataset) == 1
    assert "1 of 2 rows dropped, no turn within max_length=300" in caplog.text
    with pytest.raises(DataError, match="no row has a turn within max_length=20"):
        trainer(tmp_path, [short], max_length=20)


def test_the_models_context_bounds_conversations(tmp_path):
    long, short = records(2, steps=1)
    long.solution.problem *= 50
    run = trainer(tmp_path, [long, short], model=copy.deepcopy(tiny_model(max_context=300)), max_length=16384)
    assert len(run.train_dataset) == 1


@pytest.mark.slow
def test_tokenizing_again_finds_the_cache(tmp_path):
    Dataset.from_list([record.to_dict() for record in records()]).save_to_disk(str(tmp_path / "rows"))
    script = (
        "import sys; from pathlib import Path; from datasets import load_from_disk; "
        "from tests.helpers.sft import trainer; "
        "print(trainer(Path(sys.argv[1]), load_from_disk(sys.argv[1] + '/rows')).train_dataset.cache_files)"
    )
    seen = []
    for seed in ("1", "2"):  # in another process, where sets have another order
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", script, tmp_path], check=True, env=environment, capture_output=True)
        seen.append({path.name for path in (tmp_path / "rows").glob("cache-*.arrow")})
    assert seen[0] == seen[1] != set()


# --- Bad input -------------------------------------------------------------------------------------------------------


def broken(**changes: Any) -> dict[str, Any]:
    return {**records(1)[0].to_dict(), **changes}


FIRST, SECOND = records(1)[0].rationales
CONVERSATION = GenPRMProtocol().messages("p", ["a"], [FIRST])
BAD_ROWS = [
    (broken(rationales=[FIRST, SECOND.replace("</verify>\n", "")]), r"rationales\[1\]", "not in the format"),
    (broken(rationales=[FIRST, SECOND.partition("<output>")[0]]), r"rationales\[1\]", "no verdict"),
    (broken(rationales=[FIRST, SECOND + "Hm."]), r"rationales\[1\]", "not in the format"),
    (broken(rationales=[FIRST, FIRST]), r"rationales\[1\]", "paragraph 1, but is the turn of paragraph 2"),
    (broken(labels=[True, False]), r"rationales\[1\]", r"says Yes, but labels\[1\] says that the step is wrong"),
    (broken(labels=[True]), "labels", "as many as the rationales"),
    (broken(rationales=[FIRST, 3]), r"rationales\[1\]", "must be a string"),
    (broken(source={"mode": "fast"}), "source.mode", "unknown mode 'fast'; choose one of full"),
    (broken(mode=7), "mode", "unknown mode 7"),
    (broken(solution={"problem": "p", "steps": []}), "solution.steps", "at least one step"),
    (
        broken(rationales=[rationale(1, True, output=None).render(), SECOND]),
        r"rationales\[0\]",
        "no output of its code",
    ),
    (broken(rationales=[Rationale(1, True, "Fine.\n").render(), SECOND]), r"rationales\[0\]", "no code"),
    (broken(rationales=[Rationale(1, True).render(), SECOND]), r"rationales\[0\]", "no analysis"),
    (
        {"messages": [{"role": "user", "content": "a"}]},
        "messages",
        "must end with an assistant's turn",
    ),
    ({"messages": [*CONVERSATION, CONVERSATION[-1]]}, r"messages\[3\]", "must follow a user's"),
    ({"messages": [{"role": "tool", "content": "a"}]}, r"messages\[0\]", "must have a role .*, got role 'tool'$"),
    ({"messages": ["hello"]}, r"messages\[0\]", "must have a role .*, got str"),
    (
        {"conversations": [{"from": "observation", "value": "a"}]},
        r"conversations\[0\]",
        "must have a from .*chatgpt.* and text as value, got from 'observation'$",
    ),
    ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]", "text as content"),
    ({"messages": "hello"}, "messages", "list of messages"),
    ({"messages": CONVERSATION, "mode": "analysis"}, r"messages\[2\]", "parts beyond the mode 'analysis'"),
    ({"text": "hello"}, "rationales", "missing; a row needs .*this one has text"),
    ("hello", None, "must be a record or a mapping"),
]


@pytest.mark.parametrize(("row", "field", "message"), BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, row, field, message):
    where = "train_dataset, row 2" + (f", field '{field}'" if field else "")
    with pytest.raises(DataError, match=f"^{where}: .*{message}"):
        trainer(tmp_path, [records(1)[0], row])


def test_a_bad_row_of_a_dataset_is_named(tmp_path):
    rows = Dataset.from_list([records(1)[0].to_dict(), broken(labels=[True, False])])
    with pytest.raises(DataError, match=r"^train_dataset, row 2, field 'rationales\[1\]'"):
        trainer(tmp_path, rows)
    with pytest.raises(DataError, match=r"^eval_dataset, row 2, field 'rationales\[1\]'"):
        trainer(tmp_path, eval_dataset=rows)
    for part in (rows, list(rows), rows.to_iterable_dataset().skip(1)):
        with pytest.raises(DataError, match=r"^eval_dataset\['train'\], row [12], field 'rationales\[1\]'"):
            trainer(tmp_path, eval_dataset={"train": part})


def no_rows() -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(()))


def only_bad_rows() -> IterableDataset:
    return stream([broken(labels=[True, False])])


def only_long_rows() -> IterableDataset:
    return stream([{**record.to_dict(), "mode": "full"} for record in records(2)])


@pytest.mark.parametrize("as_eval", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_rows, "has no rows"),
        (lambda: Dataset.from_list([]), "has no rows"),
        (only_bad_rows, "no row that is not bad has a turn within max_length=16$"),
        (only_long_rows, "no row that is not bad has a turn within max_length=16$"),
    ],
)
def test_data_of_which_nothing_is_left_are_refused(tmp_path, as_eval, make, message):
    run = trainer(tmp_path, skip_bad_rows=True)
    run._max_tokens = 16
    build = run.evaluate if as_eval else functools.partial(trainer, tmp_path, skip_bad_rows=True, max_length=16)
    with pytest.raises(DataError, match=f"^{'eval' if as_eval else 'train'}_dataset: {message}"):
        build(make())


@pytest.mark.parametrize("as_dataset", [False, True])
def test_bad_rows_can_be_skipped(tmp_path, caplog, as_dataset):
    rows = [broken(labels=[True, False]), *(record.to_dict() for record in records(2)), broken(labels=[True])]
    with caplog.at_level(logging.WARNING):
        run = trainer(tmp_path, Dataset.from_list(rows) if as_dataset else rows, skip_bad_rows=True)
    assert len(run.train_dataset) == 2
    assert "train_dataset: 2 of 4 rows skipped. The first: train_dataset, row 1, field" in caplog.text
    with pytest.raises(DataError, match=r"train_dataset: .*(no usable row|no row has a turn)"):
        trainer(tmp_path, Dataset.from_list(rows[:1]) if as_dataset else rows[:1], skip_bad_rows=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "unknown mode 'fast'"),
        ({"turn_opening": "wide"}, "unknown turn_opening"),
        ({"first_turn": "short"}, "unknown first_turn"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"packing": True, "packing_strategy": "wrapped"}, "cuts rationales in the middle"),
        ({"assistant_only_loss": True}, "assistant_only_loss has no meaning here"),
        ({"completion_only_loss": True}, "completion_only_loss has no meaning here"),
    ],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **options)


def test_wrong_uses_are_explained(tmp_path):
    with pytest.raises(DataError, match="train_dataset: has no rows"):
        trainer(tmp_path, [])
    with pytest.raises(DataError, match="or a list of rows, got str"):
        trainer(tmp_path, "rows.jsonl")
    frame = Dataset.from_list([record.to_dict() for record in records()]).to_pandas()
    with pytest.raises(DataError, match=r"^eval_dataset\['a'\]: is a DataFrame, not rows; .*from_pandas"):
        trainer(tmp_path, eval_dataset={"a": frame})
    with pytest.raises(ConfigError, match="`train_dataset` is required"):
        GenPRMTrainer(tiny_model(), args=config(tmp_path), processing_class=tiny_tokenizer())
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        GenPRMTrainer(str(tmp_path), args=config(tmp_path), train_dataset=records())


def test_bf16_is_off_on_a_cpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is an accelerator")
    assert GenPRMConfig(str(tmp_path)).bf16 is False


# --- Training --------------------------------------------------------------------------------------------------------


def gradients(run: GenPRMTrainer, rows: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, averaged over all of its trained tokens."""
    model = run.model.train()
    model.zero_grad()
    batch = {
        key: value.to(model.device) if torch.is_tensor(value) else value
        for key, value in run.data_collator(rows).items()
    }
    loss = run.compute_loss(model, batch)
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_changes_neither_loss_nor_gradients(tmp_path, attention):
    model = copy.deepcopy(tiny_model())
    model.set_attn_implementation(attention)
    plain = trainer(tmp_path, model=copy.deepcopy(model))
    packed = trainer(tmp_path, model=copy.deepcopy(model), packing=True, max_length=1024)
    assert len(packed.train_dataset) < len(plain.train_dataset) == 6
    assert sorted(len(lengths) for lengths in packed.train_dataset["seq_lengths"])[-1] >= 3
    loss, expected = gradients(plain, list(plain.train_dataset))
    packed_loss, got = gradients(packed, list(packed.train_dataset))
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7)
    packed.train()
    assert len(losses(packed)) == 2


def opt() -> Any:
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=600, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
            word_embed_proj_dim=32, pad_token_id=0, bos_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip


def bloom() -> Any:
    return BloomForCausalLM(BloomConfig(vocab_size=600, hidden_size=32, n_layer=1, n_head=2))


def of_unknown_attention() -> Any:
    # transformers makes no mask for an implementation that it does not know, so every document sees those before it.
    AttentionInterface.register("without_documents", sdpa_attention_forward)
    model = copy.deepcopy(tiny_model())
    model.set_attn_implementation("without_documents")
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (opt, "OPTForCausalLM does not tell them apart, and is in sdpa attention already; set packing=False"),
        (bloom, "BloomForCausalLM does not tell them apart, and has no sdpa attention; set packing=False"),
        (of_unknown_attention, r"attention \(without_documents\) does not tell them apart; load .*'sdpa', or"),
    ],
)
def test_packing_refuses_a_model_that_mixes_documents(tmp_path, model, message):
    mixing = model()
    attention = mixing.config._attn_implementation
    with pytest.raises(ConfigError, match=f"packed conversations would see one another: .*{message}"):
        trainer(tmp_path, model=mixing, packing=True).train()
    assert mixing.config._attn_implementation == attention
    run = trainer(tmp_path, model=model(), max_steps=1)
    run.train()
    assert len(losses(run)) == 1


def test_gradient_checkpointing_changes_nothing(tmp_path):
    runs = [trainer(tmp_path, gradient_checkpointing=on) for on in (False, True)]
    for run in runs:
        run.train()
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-6)


def test_a_seed_makes_training_reproducible(tmp_path):
    seen = []
    for seed in (1, 1, 2):
        run = trainer(tmp_path, max_steps=4, seed=seed)
        run.train()
        seen.append(losses(run))
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("packing", [False, True])
def test_a_resumed_run_has_the_same_losses(tmp_path, packing):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "packing": packing, "max_length": 512}
    whole = trainer(tmp_path, **options)
    whole.train()
    resumed = trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(losses(whole)) == 6
    assert losses(resumed) == losses(whole)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_tiny_model_learns_a_dozen_rationales(tmp_path):
    rows = records(12)
    run = trainer(
        tmp_path,
        rows,
        model=copy.deepcopy(tiny_model(initializer_range=0.05)),
        eval_dataset=rows,
        max_steps=120,
        per_device_train_batch_size=6,
        learning_rate=5e-3,
        logging_steps=20,
        lr_scheduler_type="cosine",
    )
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    assert losses(run)[-1] < 0.1 < 1 < before["eval_loss"]
    # The verdict of the last step hangs on what the code printed, which the model has only read.
    assert after["eval_step_accuracy"] == 1.0
    assert after["eval_f1"] == 100.0
    # And what it writes by itself, from the first token on, is a rationale whose code runs.
    callback = VerificationCallback(run, [record.solution for record in rows[:4]])
    scores = callback.verify()
    assert scores["ok"] == 1.0


# --- Evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [False, True])
def test_step_metrics_are_those_of_the_verdicts(tmp_path, packing):
    rows = records(5)
    run = trainer(tmp_path, eval_dataset=rows, packing=packing, per_device_eval_batch_size=2)
    metrics = run.evaluate()
    judgements = []
    for record in rows:  # each verdict by itself: the logits before it, from a prompt that ends there
        judged = []
        for turn in range(len(record.rationales)):
            part = dataclasses.replace(
                record, rationales=record.rationales[: turn + 1], labels=record.labels[: turn + 1]
            )
            ids = run.chat_format.tokenizer.encode(
                tiny_tokenizer()
                .apply_chat_template(
                    GenPRMProtocol().messages(part.solution.problem, part.solution.steps, part.rationales),
                    tokenize=False,
                )
                .rpartition("Yes" if part.labels[-1] else "No")[0]
            )
            encoded = ConversationEncoder(tiny_tokenizer()).encode(read_row(part))
            position, label, yes, no = encoded.verdicts[-1]
            assert tiny_tokenizer().decode([yes]).endswith("Yes")
            assert tiny_tokenizer().decode([no]).endswith("No")
            assert abs(position - len(ids)) <= 1  # the brace may be a separate token, or not
            with torch.no_grad():
                logits = run.model(torch.tensor([encoded.input_ids[:position]])).logits[0, -1]
            judged.append([float(torch.sigmoid(logits[yes] - logits[no])), label])
        judgements.append(torch.tensor(judged))
    expected = verdict_metrics(judgements)
    assert set(expected) == {"step_accuracy", "error_acc", "correct_acc", "f1"}
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value), name
    got = torch.cat([row[row[:, 1] >= 0] for batch in run._judgements for row in batch])
    torch.testing.assert_close(got, torch.cat(judgements), rtol=1e-4, atol=1e-5)


def test_step_metrics_count_steps_and_solutions():
    judgements = [
        torch.tensor([[0.9, 1.0], [0.2, 0.0]]),  # right
        torch.tensor([[0.4, 1.0], [0.2, 0.0]]),  # an earlier step is flagged
        torch.tensor([[0.5, 1.0], [-1.0, -1.0]]),  # right; one half is Yes
    ]
    metrics = verdict_metrics(judgements)
    assert metrics["step_accuracy"] == pytest.approx(4 / 5)
    assert (metrics["error_acc"], metrics["correct_acc"]) == (50.0, 100.0)
    assert metrics["f1"] == pytest.approx(200 / 3)
    assert "f1" not in verdict_metrics(judgements[:2])  # undefined without a correct solution


def test_metrics_can_choose_the_best_model(tmp_path):
    run = trainer(
        tmp_path,
        eval_dataset={"a": records(4), "b": records(2)},
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_a_step_accuracy",
    )
    run.train()
    seen = [entry["eval_a_step_accuracy"] for entry in run.state.log_history if "eval_a_step_accuracy" in entry]
    assert len(seen) == 4
    assert run.state.best_metric == max(seen)
    assert any("eval_b_f1" in entry for entry in run.state.log_history)


def test_packed_evaluation_and_custom_collators_have_no_step_metrics(tmp_path):
    packed = trainer(tmp_path, eval_dataset=records(4), packing=True, eval_packing=True).evaluate()
    off = trainer(tmp_path, eval_dataset=records(4), step_metrics=False).evaluate()
    for metrics in (packed, off):
        assert "eval_loss" in metrics
        assert "eval_step_accuracy" not in metrics


def test_any_form_of_rows_can_be_evaluated_later(tmp_path):
    run = trainer(tmp_path)
    assert (
        run.evaluate(records(4))["eval_loss"]
        == run.evaluate(Dataset.from_list([r.to_dict() for r in records(4)]))["eval_loss"]
    )
    assert "test_f1" in run.evaluate(records(4), metric_key_prefix="test")


def test_solutions_are_verified_while_training(tmp_path):
    run = trainer(
        tmp_path,
        eval_dataset=records(2),
        eval_strategy="steps",
        eval_steps=2,
        mode="direct",
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_verified_f1",
    )
    run.add_callback(VerificationCallback(run, [record.solution for record in records(3)]))
    run.train()
    [entry] = [entry for entry in run.state.log_history if "eval_verified_f1" in entry]
    assert {"eval_verified_error_acc", "eval_verified_correct_acc", "eval_verified_ok"} < set(entry)
    assert run.state.best_metric == entry["eval_verified_f1"]
    with pytest.raises(DataError, match="row 1, field 'label': missing"):
        VerificationCallback(run, [Solution("s", "p", ["a"])])


# --- In the place of SFTTrainer --------------------------------------------------------------------------------------


def stream(rows: list[dict[str, Any]]) -> IterableDataset:
    """Rows that are read one by one. Like any stream that was mapped, it does not know its columns."""
    return IterableDataset.from_generator(lambda: iter(copy.deepcopy(rows))).map(dict)


def numbers(metrics: dict[str, float], part: str = "") -> dict[str, float]:
    """Loss and scores of an evaluation, or of a part of it."""
    head = f"eval_{part}_" if part else "eval_"
    wanted = ("loss", "step_accuracy", "error_acc", "correct_acc", "f1")
    return {name: metrics[head + name] for name in wanted if head + name in metrics}


def test_streams_are_evaluated_alone_and_in_a_dict(tmp_path):
    rows = [record.to_dict() for record in records(4)]
    run = trainer(tmp_path, eval_dataset={"first": stream(rows), "second": records(2)})
    expected = numbers(run.evaluate(rows))
    assert len(expected) == 5
    assert numbers(run.evaluate(stream(rows))) == expected
    assert numbers(run.evaluate(), "first") == expected
    both = run.evaluate({"one": stream(rows), "two": Dataset.from_list(rows)})
    assert numbers(both, "one") == numbers(both, "two") == expected


def test_tokenized_rows_train_as_the_rows_that_they_come_from(tmp_path):
    run = trainer(tmp_path)
    encoded = [dict(row) for row in run.train_dataset]
    run.train()
    for rows in (Dataset.from_list(encoded), stream(encoded)):
        again = trainer(tmp_path, rows, eval_dataset=rows, shuffle_dataset=False, max_steps=1)
        again.train()
        # A stream is not shuffled, so the first batch is another one. All rows of it are trained on.
        assert losses(again)[0] > 0
        assert "eval_loss" in again.evaluate()


def test_a_packed_evaluation_set_in_a_dict_is_packed_once(tmp_path):
    run = trainer(tmp_path, eval_packing=True, packing=True)
    alone = run.evaluate(records(6))["eval_loss"]
    assert run.evaluate({"part": records(6)})["eval_part_loss"] == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("as_eval", [False, True])
def test_a_transform_is_not_left_out_silently(tmp_path, as_eval):
    rows = Dataset.from_list([record.to_dict() for record in records(2)]).with_transform(lambda batch: batch)
    given = {"rows": records(2), "eval_dataset": {"part": rows}} if as_eval else {"rows": rows}
    with pytest.raises(ValueError, match=r"Dataset\.with_transform\(\).*Dataset\.map\(\).*skip_prepare_dataset"):
        trainer(tmp_path, **given)


def test_a_transform_that_returns_tokens_is_trained_on(tmp_path):
    encoded = trainer(tmp_path).train_dataset
    made = [{"input_ids": encoded[number]["input_ids"], "labels": encoded[number]["labels"]} for number in range(6)]
    rows = Dataset.from_dict({"number": list(range(6))}).with_transform(
        lambda batch: {name: [made[n][name] for n in batch["number"]] for name in ("input_ids", "labels")}
    )
    skip = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    run = trainer(tmp_path, rows, **skip)
    run.train()
    assert len(losses(run)) == 2


def test_plain_options_of_training_are_taken_as_trl_takes_them(tmp_path):
    plain = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "max_steps": 1, "hub_token": "secret"}
    for args in (
        TrainingArguments(**plain, learning_rate=3e-4),
        SFTConfig(**plain, learning_rate=3e-4, bf16=False, eos_token="<|im_end|>", max_length=700),
    ):
        run = GenPRMTrainer(
            copy.deepcopy(tiny_model()), args, records(), processing_class=copy.deepcopy(tiny_tokenizer())
        )
        assert isinstance(run.args, GenPRMConfig)
        assert (run.args.learning_rate, run.args.hub_token, run.args.bf16) == (3e-4, "secret", False)
        assert run.args.max_length == (700 if isinstance(args, SFTConfig) else 16384)
        run.train()
    with pytest.raises(ConfigError, match=r"must be a GenPRMConfig, which has no .*num_generations.*got a GRPOConfig"):
        GenPRMTrainer(tiny_model(), GRPOConfig(**plain, bf16=False), records(), processing_class=tiny_tokenizer())
    with pytest.raises(ConfigError, match="must be a GenPRMConfig, got DataCollatorWithPadding"):
        GenPRMTrainer(tiny_model(), DataCollatorWithPadding(tiny_tokenizer()), records())


@pytest.mark.parametrize(
    "names", [{}, {"user": "human", "assistant": "gpt"}, {"user": "human", "assistant": "chatgpt"}]
)
def test_conversations_of_from_and_value_are_messages(tmp_path, names):
    messages = [read_row(record).to_row() for record in records(2)]
    rows = [
        {
            "conversations": [
                {"from": names.get(message["role"], message["role"]), "value": message["content"]}
                for message in row["messages"]
            ]
        }
        for row in messages
    ]
    expected = trainer(tmp_path, messages).train_dataset["input_ids"]
    assert trainer(tmp_path, rows).train_dataset["input_ids"] == expected
    assert trainer(tmp_path, Dataset.from_list(rows)).train_dataset["input_ids"] == expected
    mixed = [{"messages": None, **rows[0]}, {"conversations": None, **messages[1]}]
    for given in (mixed, Dataset.from_list(mixed), Dataset.from_list(mixed[::-1]), stream(mixed)):
        ids = [row["input_ids"] for row in trainer(tmp_path, given).train_dataset]
        assert sorted(ids) == sorted(expected)
    rows[1]["conversations"][1]["value"] = 3
    with pytest.raises(
        DataError, match=r"row 2, field 'conversations\[1\]': must have a from .*, got from '\w+', value 3$"
    ):
        trainer(tmp_path, rows)


# --- Saving ----------------------------------------------------------------------------------------------------------


def test_a_saved_model_says_how_to_ask_it(tmp_path):
    from genprm_trl import GenPRM

    run = trainer(tmp_path, mode="analysis", first_turn="demonstration")
    run.model.config.name_or_path = "some-lab/base-model"
    run.save_model()
    assert load_settings(tmp_path) == ModelSettings("generation_prompt", "demonstration", ("analysis",))
    with GenPRM.from_pretrained(tmp_path) as prm:
        assert prm.protocol == GenPRMProtocol("analysis", "demonstration")
        assert prm.chat.tokenizer.chat_template == CHATML_TEMPLATE
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "base_model: some-lab/base-model" in card
    assert "arXiv" in card
    assert "2504.00891" in card
    for tag in ("trl", "sft", "genprm-trl", "genprm"):
        assert tag in run.model.model_tags
        assert f"- {tag}\n" in card


def test_a_model_is_asked_on_any_day_with_the_day_of_its_training(tmp_path, day):
    from genprm_trl import GenPRM

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = chat_templates.DATED
    model = copy.deepcopy(tiny_model())
    rows = records(1, steps=2)

    def first_ids(run: Any) -> list[int]:
        return run.train_dataset[0]["input_ids"]

    day("2026-12-01")
    run = trainer(
        tmp_path / "a", rows, tokenizer=tokenizer, model=model, mode="direct", save_strategy="steps", save_steps=1
    )
    run.train()
    run.save_model()
    assert load_settings(tmp_path / "a") == ModelSettings(modes=("direct",), template_date="2026-12-01")
    assert "Today: 01 Dec 2026" in tokenizer.decode(first_ids(run))

    day("2027-02-03")
    with GenPRM.from_pretrained(tmp_path / "a") as prm:
        conversation = Conversation(prm.chat)
        conversation.open_turn(prm.protocol.opening_messages(rows[0].solution.problem, rows[0].solution.steps, 0))
        asked = conversation.token_ids
    assert first_ids(run)[: len(asked)] == asked
    with GenPRM.from_pretrained(tmp_path / "a", template_date="2027-02-03") as prm:
        assert "Today: 03 Feb 2027" in prm.chat.render([{"role": "user", "content": "x"}], open_turn=True)[0]
    # A training that is resumed, and one that goes on from the model, keep the day.
    resumed = trainer(tmp_path / "a", rows, tokenizer=tokenizer, model=model, mode="direct")
    further = trainer(tmp_path / "b", rows, tokenizer=tokenizer, model=str(tmp_path / "a"), mode="direct")
    assert first_ids(resumed) == first_ids(further) == first_ids(run)
    assert further.chat_format.render([{"role": "user", "content": "x"}], open_turn=True)[0].startswith(
        "Today: 01 Dec"
    )


def test_the_day_is_that_of_what_is_trained_further(tmp_path, day):
    peft = pytest.importorskip("peft")
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = chat_templates.DATED
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model().save_pretrained(base)
    tokenizer.save_pretrained(base)
    day("2026-12-01")
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    options = {"mode": "direct", "max_steps": 1}
    run = trainer(
        adapter, tokenizer=tokenizer, model=str(base), peft_config=lora, save_strategy="steps", save_steps=1, **options
    )
    run.train()
    run.save_model()

    day("2027-02-03")
    model = peft.AutoPeftModelForCausalLM.from_pretrained(str(adapter), is_trainable=True)
    further = trainer(tmp_path / "b", model=model, tokenizer=load_tokenizer(str(adapter)), **options)
    assert further.model_settings.template_date == "2026-12-01"
    # A checkpoint of another directory names the day, too, where the rows are still to be encoded.
    checkpoint = str(adapter / "checkpoint-1")
    made = {"tokenizer": tokenizer, "model": str(base), "peft_config": lora, **options, "max_steps": 2}
    resumed = trainer(tmp_path / "c", resume_from_checkpoint=checkpoint, **made)
    assert resumed.model_settings.template_date == "2026-12-01"
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 2
    with pytest.raises(ConfigError, match=r"with 2026-12-01 as today's .* with 2027-02-03: set the option resume_fr"):
        trainer(tmp_path / "d", **made).train(resume_from_checkpoint=checkpoint)


def test_a_template_without_a_day_is_saved_without(tmp_path, day):
    day("2026-12-01")
    assert trainer(tmp_path).model_settings.template_date is None


def test_ends_of_turns_that_are_not_trained_are_warned_of(tmp_path, caplog):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = CHATML_TEMPLATE.replace("<|im_start|>", "").replace("<|im_end|>", "")
    with caplog.at_level("WARNING"):
        run = trainer(tmp_path, tokenizer=tokenizer)
    assert "no token that ends every turn, so the model is not taught to end it" in caplog.text
    assert "relies on its stop string </output>" in caplog.text
    assert trained_text(run.train_dataset[0]).endswith("</output>\n")
    caplog.clear()
    with caplog.at_level("WARNING"):
        trainer(tmp_path)
    assert "ends every turn" not in caplog.text


def test_settings_round_trip_and_bad_ones_are_refused(tmp_path):
    assert load_settings(tmp_path) is None
    settings = ModelSettings("as_published", "demonstration", ("full", "direct"), "2026-12-01")
    settings.save(tmp_path)
    assert load_settings(tmp_path) == settings
    assert settings.default_mode == "full"
    path = tmp_path / "genprm.json"
    path.write_text(json.dumps({"modes": ["direct"], "of_a_later_version": 1}), encoding="utf-8")
    assert load_settings(tmp_path) == ModelSettings(modes=("direct",))
    bad = ["{", "[]", '{"modes": 3}', '{"modes": []}', '{"modes": [["full"]]}', '{"turn_opening": "wide"}']
    bad += ['{"protocol": "prm"}']
    bad += ['{"template_date": "yesterday"}', '{"template_date": 20261201}', '{"template_date": ["2026-12-01"]}']
    for text in bad:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"genprm\.json: not the settings"):
            load_settings(tmp_path)


def test_an_adapter_is_trained_and_saved(tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    run = trainer(tmp_path, peft_config=lora, gradient_checkpointing=True, eval_dataset=records(2), packing=True)
    before = {name: weight.clone() for name, weight in run.model.named_parameters()}
    run.train()
    changed = {name for name, weight in run.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert "eval_f1" in run.evaluate()
    run.save_model()
    assert load_settings(tmp_path) == ModelSettings()
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert (tmp_path / "tokenizer.json").exists()


class Seam(SFTTrainer):
    """Keeps how TRL calls what `GenPRMTrainer` overrides."""

    prepared: ClassVar[list[tuple[str, bool]]] = []

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        self.prepared.append((dataset_name, packing))
        assert args is not None
        assert processing_class is not None
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns.append("verdicts")


@pytest.mark.parametrize("packing", [False, True])
def test_seam_encoded_rows_pass_through_the_overridden_methods(tmp_path, packing):
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8], "verdicts": [[3, 1, 8, 9]]}
    rows = Dataset.from_list([row | {"input_ids": [5, 6, 7, 8 + i]} for i in range(4)])
    batches: list[list[dict[str, Any]]] = []
    Seam.prepared.clear()
    args = SFTConfig(
        str(tmp_path), packing=packing, eval_packing=False, max_length=8, max_steps=1, report_to="none", bf16=False,
        use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    run = Seam(
        copy.deepcopy(tiny_model()), args, train_dataset=rows.remove_columns("verdicts"), eval_dataset={"easy": rows},
        processing_class=copy.deepcopy(tiny_tokenizer()),
    )  # fmt: skip
    assert Seam.prepared == [("train", packing), ("easy", False)]
    assert run.padding_free == packing
    ids = run.train_dataset["input_ids"]
    assert sorted(token for row in ids for token in row) == sorted(token for row in rows["input_ids"] for token in row)
    assert len(ids) == (2 if packing else 4)
    if packing:
        assert run.train_dataset["seq_lengths"][:] == [[4, 4], [4, 4]]

    collator = run.data_collator

    def collate(examples):
        batches.append([dict(example) for example in examples])
        return collator(examples)

    run.data_collator = collate
    run.evaluate()
    for example, whole in zip(batches[0], rows, strict=True):
        assert {name: list(value) for name, value in example.items() if name in whole} == whole


# --- Several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    both, _ = in_two_processes(train_and_report, tmp_path, 2)
    one = train_and_report(tmp_path, 4)
    assert (both["processes"], one["processes"]) == (2, 1)
    assert both["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert both["weights"] == pytest.approx(one["weights"], rel=1e-5)
    assert both["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert both["verified"] == pytest.approx(one["verified"])
