"""The transformers generator: the conformance suite, and what is its own."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from genprm_trl.errors import ConfigError
from genprm_trl.generation import GenerationResult, SamplingParams, TransformersGenerator
from genprm_trl.generation.hf.generator import attention_without_plans
from tests.helpers.conformance import GREEDY, PROMPTS, SAMPLED, GeneratorConformance
from tests.helpers.tiny_models import corpus, tiny_model, tiny_tokenizer


class TestConformance(GeneratorConformance):
    @pytest_asyncio.fixture
    async def generator(self) -> AsyncIterator[TransformersGenerator]:
        async with TransformersGenerator(tiny_model(), tiny_tokenizer()) as generator:
            yield generator


class TestConformanceInSmallBatches(GeneratorConformance):
    """Most requests have to wait for a place, and unfinished ones move from batch to batch."""

    @pytest_asyncio.fixture
    async def generator(self, model_dir: Path) -> AsyncIterator[TransformersGenerator]:
        async with TransformersGenerator(model_dir, max_batch_size=5, device="cpu") as generator:
            yield generator


async def generate_all(
    generator: TransformersGenerator, prompts: list[list[int]], params: SamplingParams
) -> list[GenerationResult]:
    return list(await asyncio.gather(*(generator.generate(prompt, params) for prompt in prompts)))


def spy_on_batches(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the rows of every prompt that goes through the model."""
    sizes: list[int] = []
    original = type(model).forward

    @functools.wraps(original)  # generate looks at its signature
    def forward(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if input_ids.shape[1] > 1:
            sizes.append(input_ids.shape[0])
        return original(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", forward)
    return sizes


async def test_requests_made_together_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    sizes = spy_on_batches(model, monkeypatch)
    async with TransformersGenerator(model, tiny_tokenizer()) as generator:
        await generate_all(generator, PROMPTS, dataclasses.replace(GREEDY, max_new_tokens=4))
    assert sizes == [len(PROMPTS)]


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "seeded"])
async def test_padding_and_batch_size_change_nothing(params: SamplingParams) -> None:
    prompts = [PROMPTS[i % len(PROMPTS)][: 1 + 7 * i] for i in range(16)]
    outcomes = []
    for max_batch_size in (1, 16, 3):
        async with TransformersGenerator(tiny_model(), tiny_tokenizer(), max_batch_size=max_batch_size) as generator:
            outcomes.append(await generate_all(generator, prompts, params))
    for alone, *others in zip(*outcomes, strict=True):
        for other in others:
            assert other.token_ids == alone.token_ids
            for there, here in zip(other.top_logprobs, alone.top_logprobs, strict=True):
                assert there == pytest.approx(here, abs=1e-4)


async def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    finished: list[str] = []

    async def request(name: str, count: int) -> GenerationResult:
        result = await generator.generate(PROMPTS[1], dataclasses.replace(GREEDY, max_new_tokens=count))
        finished.append(name)
        return result

    async with TransformersGenerator(tiny_model(), tiny_tokenizer()) as generator:
        long = asyncio.create_task(request("long", 900))
        await asyncio.sleep(0.1)
        short = await request("short", 5)
        together = await request("long, seen from the same batch", 900)
    assert (await long).finish_reason == "length"
    # The long request went through two batches and is none the worse for it.
    assert (await long).token_ids == together.token_ids
    assert [len(maps) for maps in (await long).top_logprobs] == [len(maps) for maps in together.top_logprobs]
    assert short.token_ids == together.token_ids[:5]
    assert finished[0] == "short"


async def test_out_of_memory_makes_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    original = type(model).forward

    @functools.wraps(original)  # generate looks at its signature
    def forward(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # Three rows fit until their cache has grown, then two.
        if input_ids.shape[0] > 3 or (input_ids.shape[0] > 2 and kwargs["attention_mask"].shape[1] > 60):
            raise torch.OutOfMemoryError("no memory left")
        return original(self, input_ids, *args, **kwargs)

    prompts = [prompt[:50] for prompt in PROMPTS]
    async with TransformersGenerator(model, tiny_tokenizer()) as generator:
        expected = await generate_all(generator, prompts, SAMPLED)
        monkeypatch.setattr(type(model), "forward", forward)
        results = await generate_all(generator, prompts, SAMPLED)
    for result, wanted in zip(results, expected, strict=True):
        assert result.token_ids == wanted.token_ids
        assert len(result.top_logprobs) == len(result.token_ids)
        for there, here in zip(result.top_logprobs, wanted.top_logprobs, strict=True):
            assert there == pytest.approx(here, abs=1e-4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too large"), ValueError("broken layer")])
async def test_a_failing_model_fails_the_requests_and_not_the_worker(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise error

    async with TransformersGenerator(tiny_model(), tiny_tokenizer()) as generator:
        with monkeypatch.context() as patch:
            patch.setattr(type(tiny_model()), "forward", forward)
            results = await generate_all(generator, PROMPTS[:3], GREEDY)
        for result in results:
            assert (result.finish_reason, result.text, result.token_ids) == ("error", "", [])
            assert str(error) in result.message
        assert (await generator.generate(PROMPTS[0], GREEDY)).finish_reason == "length"


async def test_logits_that_are_not_numbers_are_an_error_of_their_row() -> None:
    model = copy.deepcopy(tiny_model())
    poison = 1
    model.get_input_embeddings().weight.data[poison] = float("inf")
    model.lm_head.weight = torch.nn.Parameter(tiny_model().lm_head.weight.clone())
    params = dataclasses.replace(GREEDY, max_new_tokens=500)
    async with TransformersGenerator(model, tiny_tokenizer()) as generator:
        bad, good = await generate_all(generator, [[5, poison], PROMPTS[1]], params)
        assert bad.finish_reason == "error"
        assert "not finite" in bad.message
        assert bad.num_generated < 100  # it does not go on to the end
        assert good.finish_reason in ("length", "stop")


async def test_the_model_keeps_its_generation_defaults_and_its_mode() -> None:
    model = copy.deepcopy(tiny_model())
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.suppress_tokens = list(range(100, 400))
    model.train()
    model.lm_head.eval()
    async with (
        TransformersGenerator(model, tiny_tokenizer()) as generator,
        TransformersGenerator(tiny_model(), tiny_tokenizer()) as plain,
    ):
        assert await generator.generate(PROMPTS[1], GREEDY) == await plain.generate(PROMPTS[1], GREEDY)
    assert model.generation_config.repetition_penalty == 5.0
    assert model.training
    assert model.model.training
    assert not model.lm_head.training


async def test_a_model_trained_between_batches_is_used_as_it_is_now() -> None:
    model = copy.deepcopy(tiny_model())
    async with TransformersGenerator(model, tiny_tokenizer()) as generator:
        before = await generator.generate(PROMPTS[1], GREEDY)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        after = await generator.generate(PROMPTS[1], GREEDY)
    assert before.token_ids != after.token_ids


async def test_a_peft_model_generates_with_its_adapter() -> None:
    torch.manual_seed(0)
    base = copy.deepcopy(tiny_model())
    base.generation_config.repetition_penalty = 3.0
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    async with TransformersGenerator(model, tiny_tokenizer()) as generator:
        adapted = await generator.generate(PROMPTS[1], GREEDY)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[1] + adapted.token_ids])).logits[0, len(PROMPTS[1]) - 1 : -1]
    assert logits.argmax(-1).tolist() == adapted.token_ids
    assert base.generation_config.repetition_penalty == 3.0


@pytest.mark.parametrize("remembers", [False, True], ids=["nothing kept", "with a prefix cache"])
async def test_batches_do_not_wait_for_other_processes(monkeypatch, model_dir: Path, remembers: bool) -> None:
    """As `generate` would beside a training with ZeRO-3, where each process has its own number of batches."""
    monkeypatch.setattr("transformers.generation.utils.is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr("transformers.generation.utils._get_torch_distributed_world_size", lambda: 2)
    model = model_dir if remembers else tiny_model()
    async with TransformersGenerator(model, tiny_tokenizer()) as generator:
        assert (generator._prefixes is not None) == remembers
        result = await generator.generate(PROMPTS[1], GREEDY)
    assert result.finish_reason in ("length", "stop")


def test_a_model_that_is_sharded_is_refused() -> None:
    model = copy.deepcopy(tiny_model())
    weight = model.lm_head.weight = torch.nn.Parameter(torch.empty(0))
    weight.ds_id = 3  # as ZeRO-3 leaves a weight between two uses
    with pytest.raises(ConfigError, match="sharded over processes"):
        TransformersGenerator(model, tiny_tokenizer())


async def test_loads_in_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    copy.deepcopy(tiny_model()).to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    async with TransformersGenerator(str(tmp_path), device="cpu") as generator:
        assert generator.model.dtype == torch.bfloat16
        results = await generate_all(generator, PROMPTS, SAMPLED)
    assert all(len(result.token_ids) == len(result.top_logprobs) for result in results)
    assert {result.finish_reason for result in results} <= {"length", "stop"}


async def test_a_tokenizer_that_strips_the_first_space_loses_no_text() -> None:
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    core.train_from_iterator(corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    model = tiny_model(tokenizer)
    prompt = tokenizer.encode("Anna has 5 apples")
    params = dataclasses.replace(SAMPLED, max_new_tokens=40, top_k=200, temperature=1.5)
    async with TransformersGenerator(model, tokenizer) as generator:
        results = [await generator.generate(prompt, dataclasses.replace(params, seed=seed)) for seed in range(8)]
        assert any(result.text.startswith(" ") for result in results)
        for result in results:
            whole = tokenizer.decode(prompt + result.token_ids, skip_special_tokens=True)
            assert whole == "Anna has 5 apples" + result.text
        free = next(result for result in results if result.text.count(" ") > 2 and "\ufffd" not in result.text)
        seed = results.index(free)
        for stop in {free.text[i : i + 2] for i in range(0, len(free.text) - 2, 3)}:
            result = await generator.generate(prompt, dataclasses.replace(params, seed=seed, stop=(stop,)))
            assert result.text == free.text[: free.text.index(stop) + 2]
            assert tokenizer.decode(prompt + result.token_ids, skip_special_tokens=True).endswith(result.text)


class TestUnusableModels:
    def test_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            TransformersGenerator(tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="does not exist"):
            TransformersGenerator("./nowhere")

    def test_file_instead_of_directory(self, model_dir: Path) -> None:
        with pytest.raises(ConfigError, match=r"is a file; name the model's directory"):
            TransformersGenerator(model_dir / "config.json")

    def test_directory_without_tokenizer(self, tmp_path: Path) -> None:
        tiny_model().save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=r"no tokenizer.*save_pretrained"):
            TransformersGenerator(tmp_path)
        TransformersGenerator(tmp_path, tiny_tokenizer(), device="cpu")

    def test_directory_without_model(self, tmp_path: Path) -> None:
        tiny_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=r"no config\.json"):
            TransformersGenerator(tmp_path)

    def test_unreadable_weights(self, tmp_path: Path) -> None:
        tiny_model().save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(ConfigError, match="cannot load a causal language model"):
            TransformersGenerator(tmp_path)

    def test_unreadable_tokenizer(self, tmp_path: Path) -> None:
        tiny_model().save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(ConfigError, match="cannot load a tokenizer"):
            TransformersGenerator(tmp_path)

    def test_tokenizer_config_without_vocabulary(self, tmp_path: Path) -> None:
        tiny_model().save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(ConfigError, match="no vocabulary"):
            TransformersGenerator(tmp_path)

    def test_models_that_do_not_write_left_to_right(self, tmp_path: Path) -> None:
        tiny_tokenizer().save_pretrained(tmp_path)
        small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 600}
        t5 = T5ForConditionalGeneration(T5Config(**small))
        with pytest.raises(ConfigError, match="encoder-decoder"):
            TransformersGenerator(t5, tiny_tokenizer())
        t5.save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="cannot load a causal language model"):
            TransformersGenerator(tmp_path)

    def test_options_that_contradict(self, model_dir: Path) -> None:
        with pytest.raises(ConfigError, match="needs its tokenizer"):
            TransformersGenerator(tiny_model())
        with pytest.raises(ConfigError, match="loaded already"):
            TransformersGenerator(tiny_model(), tiny_tokenizer(), dtype="float16")
        with pytest.raises(ConfigError, match="max_batch_size"):
            TransformersGenerator(tiny_model(), tiny_tokenizer(), max_batch_size=0)
        with pytest.raises(ConfigError, match="not both"):
            TransformersGenerator(model_dir, device="cpu", model_kwargs={"device_map": "cpu"})


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"logprobs": -1},
        {"stop": "</analyze>"},
        {"stop": ["</analyze>"]},
        {"stop": ("",)},
    ],
)
def test_sampling_parameters_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SamplingParams(**bad)


def test_the_interface_needs_no_torch() -> None:
    code = "import sys, genprm_trl.generation; assert not {'torch', 'transformers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_process_may_end_without_close(model_dir: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from genprm_trl.generation import SamplingParams, TransformersGenerator\n"
        "async def main():\n"
        "    generator = TransformersGenerator(sys.argv[1], device='cpu')\n"
        "    task = asyncio.create_task(generator.generate([5, 6], SamplingParams(2000, temperature=0)))\n"
        "    await asyncio.sleep(0.3)\n"
        "    sys.exit(7)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model_dir)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr


async def test_close_ends_a_batch_that_runs() -> None:
    generator = TransformersGenerator(tiny_model(), tiny_tokenizer())
    tasks = [
        asyncio.create_task(generator.generate(p, dataclasses.replace(GREEDY, max_new_tokens=1500))) for p in PROMPTS
    ]
    await asyncio.sleep(0.2)
    await generator.close()
    assert {(await task).finish_reason for task in tasks} <= {"error", "stop"}


def test_on_a_gpu_no_attention_builds_a_plan_for_each_shape() -> None:
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    with attention_without_plans(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == enabled
    with attention_without_plans(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled() == enabled
