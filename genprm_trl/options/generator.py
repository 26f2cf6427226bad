"""The options that say where text comes from, shared by every command that needs a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl._loops import run
from genprm_trl.conversation.settings import frozen_date
from genprm_trl.conversation.template import check_date
from genprm_trl.errors import ConfigError, check_at_least, check_one_of
from genprm_trl.generation.backends import OPERATIONAL_OPTIONS
from genprm_trl.rows.digests import content_digest
from genprm_trl.stages.fingerprint import model_fingerprint
from genprm_trl.stages.settings import decisive, read_settings

if TYPE_CHECKING:
    from genprm_trl.generation.base import Generator


# Names of torch, which is not imported to check them.
_DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float", "float64", "double")


def _is_at_hand(source: str) -> bool:
    """Whether a tokenizer may be loaded: it is in the Hub's cache, or the Hub is there when it is asked once.

    Loading asks many times, and waits in between: the better part of a minute where there is no network.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    from genprm_trl.generation.loading import TOKENIZER_FILES

    try:
        if any(isinstance(try_to_load_from_cache(source, name), str) for name in TOKENIZER_FILES):
            return True
        get_hf_file_metadata(hf_hub_url(source, "tokenizer_config.json"), timeout=5)
        return True
    except RepositoryNotFoundError:  # or no right to see it
        return False
    except HfHubHTTPError:  # it is busy, or has no such file: loading asks again, and for other files
        return True
    except Exception as error:  # no network; by its name, since versions of the Hub's client use other libraries
        return type(error).__name__ == "ReadTimeout"


@dataclass
class GeneratorOptions:
    """A model and what runs it. A command's `run` takes it beside its own options.

    Raises:
        ConfigError: A value is out of range.
    """

    model: str = field(metadata={"help": "Model directory or Hub id.", "reads": "model"})
    backend: str = field(
        default="transformers",
        metadata={
            "help": "What generates the text. transformers: the model in this process. vllm: vLLM's engine, started "
            "by this process. server: running servers, named by server_url. module:Class: your own generator."
        },
    )
    server_url: list[str] | None = field(
        default=None,
        metadata={
            "help": "Base URLs of servers that offer the model at an OpenAI-compatible /v1/completions.",
            "operational": True,
        },
    )
    api_key_variable: str | None = field(
        default=None,
        metadata={
            "help": "Environment variable with the key that the servers are sent. Default: OPENAI_API_KEY, for "
            "api.openai.com and the server of OPENAI_BASE_URL alone.",
            "operational": True,
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Directory or Hub id of the tokenizer. Default: the model's.", "reads": "model"},
    )
    max_context: int | None = field(
        default=None,
        metadata={"help": "Maximum tokens of a whole conversation. Default: the model's context length."},
    )
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Requests that the generator (or each server) works on at once.", "operational": True},
    )
    device: str | None = field(
        default=None, metadata={"help": "Device of the model, for example cuda:1.", "operational": True}
    )
    dtype: str = field(default="auto", metadata={"help": "Precision of the weights, for example bfloat16."})
    backend_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "More arguments for the backend's generator, for example those of vLLM's engine."},
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={"help": "Jinja file that replaces the tokenizer's chat template.", "reads": "file"},
    )
    template_date: str | None = field(
        default=None,
        metadata={
            "help": "Day that the chat template shows as today's, for example 2026-12-01. Default: the one in the "
            "model's directory, else the day on which the run started."
        },
    )

    def __post_init__(self) -> None:
        check_at_least(1, max_context=self.max_context, batch_size=self.batch_size)
        check_one_of(_DTYPES, dtype=self.dtype)
        check_date(self.template_date)

    def freeze_date(
        self, settings: Path | None = None, output: str | Path | None = None, name: str = "template_date"
    ) -> None:
        """Sets the day that a dated chat template shows, so that a run asks in the same tokens on any day.

        Args:
            settings: The settings file of the run, which names the day if this resumes it.
            output: The run's output. One without settings is somebody else's, and the run will be refused.
            name: What the day is called in the settings.

        Raises:
            ConfigError: The chat template cannot be read, or the model's settings cannot be used.
            DataError: The settings file cannot be used.
        """
        if self.template_date is not None:
            return
        if settings is not None:
            # First, since a template may have to come from the Hub.
            kept = read_settings(settings)
            if kept is not None and name in kept:
                self.template_date = kept[name]
                return
            if kept is None and output is not None and Path(output).is_file() and Path(output).stat().st_size:
                return
        self.template_date = self._frozen_date()

    def _frozen_date(self) -> str | None:
        """The day that a run which begins now shows in all of its time; None where the template shows none."""
        return frozen_date(self.chat_template() or self._own_chat_template(), self.model)

    def _own_chat_template(self) -> str:
        """Text that holds the tokenizer's chat template; empty where it cannot be loaded, which shows later."""
        source = self.model if self.tokenizer is None else self.tokenizer
        if Path(source).is_dir():  # reading is quicker than loading a tokenizer, and a finished run needs none
            files = [*Path(source).glob("*.jinja"), Path(source, "tokenizer_config.json")]
            return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file())
        if self.backend not in ("transformers", "vllm", "server"):
            return ""  # it knows what the name stands for
        if not _is_at_hand(source):
            return ""
        from genprm_trl.generation.loading import load_tokenizer

        try:
            return str(load_tokenizer(source).chat_template)
        except ConfigError:
            return ""

    def what_decides_text(self) -> dict[str, Any]:
        """The settings that all rows of a file must share, as JSON values.

        Hashes of the files of model, tokenizer and chat template are among them.
        """
        settings = decisive(self)
        settings["backend_options"] = {
            name: value for name, value in self.backend_options.items() if name not in OPERATIONAL_OPTIONS
        }
        # What is at a path may be another thing when a run is resumed.
        return {
            **settings,
            "model_files": model_fingerprint(self.model),
            "tokenizer_files": None if self.tokenizer is None else model_fingerprint(self.tokenizer),
            "chat_template": None if (text := self.chat_template()) is None else content_digest(text),
        }

    def generator_options(self) -> dict[str, Any]:
        """What `open_generator` is given besides model, tokenizer and backend.

        Raises:
            ConfigError: Servers are named for another backend, or none for this one.
        """
        for name in ("server_url", "api_key_variable"):
            if getattr(self, name) is not None and self.backend in ("transformers", "vllm"):
                raise ConfigError(f"{name} is for --backend server, not for {self.backend}")
        if not self.server_url and self.backend == "server" and "urls" not in self.backend_options:
            raise ConfigError("--backend server needs server_url, the base URLs of the servers")
        options: dict[str, Any] = {
            "device": self.device,
            "dtype": self.dtype if self.dtype != "auto" else None,  # the default of every backend
            "max_batch_size": self.batch_size,
            "max_context": self.max_context,
            "urls": self.server_url,
            "api_key_variable": self.api_key_variable,
        }
        return {name: value for name, value in options.items() if value is not None} | self.backend_options

    def opener(self) -> Callable[[], Generator]:
        """Opens the generator when it is called, in this process or in another that it is sent to."""
        from genprm_trl.generation.backends import open_generator

        return functools.partial(
            open_generator, self.model, self.tokenizer, backend=self.backend, **self.generator_options()
        )

    def check_model(self) -> None:
        """Finds what would keep the generator from being opened, as far as that takes no model.

        Raises:
            ConfigError: The backend, model directory, tokenizer, chat template or device cannot be used.
            MissingExtraError: The backend's package is not installed.
        """
        from genprm_trl.generation.backends import find_backend

        find_backend(self.backend, self.generator_options())
        if self.backend in ("transformers", "vllm"):
            from genprm_trl.conversation.template import ChatFormat
            from genprm_trl.generation.loading import check_device, load_config, load_tokenizer

            tokenizer = load_tokenizer(self.model if self.tokenizer is None else self.tokenizer)
            ChatFormat(tokenizer, chat_template=self.chat_template(), template_date=self.template_date)
            load_config(self.model)
            check_device(self.device)

    def ask_servers(self) -> None:
        """Opens and closes the generator where it is on servers, which then say whether they can be used.

        Raises:
            ConfigError: They cannot.
        """
        if self.backend == "server":
            run(self.opener()().close())

    def chat_template(self) -> str | None:
        """The template to use in place of the tokenizer's own.

        Raises:
            ConfigError: The file cannot be read.
        """
        if self.chat_template_path is None:
            return None
        try:
            return Path(self.chat_template_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--chat_template_path {self.chat_template_path}: {error}") from error
