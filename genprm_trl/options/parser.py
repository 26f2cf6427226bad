"""Reads a subcommand's options from dataclasses, as TRL's commands do, with positional arguments and clear errors.

An option is a dataclass field with `metadata={"help": ...}`, as in TRL's scripts. `metadata` may hold more:

- `"positional": True`: the option is given without its name.
- `"operational": True`: the option does not decide what is written (see `stages.settings.decisive`).
- `"reads": KIND`: the command reads what the option names (see `rows.outputs.inputs_of`).
- anything else goes to `argparse.ArgumentParser.add_argument`.

```python
@dataclass
class VerifyOptions:
    file: str = field(metadata={"help": "Solutions to judge.", "positional": True})
    model: str = field(metadata={"help": "Model directory or Hub id."})
    n: int = field(default=1, metadata={"help": "Chains a solution."})
```

Several dataclasses may have a field of the same name, such as `seed`. It is one option, and each gets its value.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import yaml

from genprm_trl.errors import ConfigError, DataError, GenPRMError
from genprm_trl.rows.jsonl import parse_json
from genprm_trl.rows.secrets import mask_text
from genprm_trl.rows.strict_yaml import load_yaml


def _parser_of_transformers() -> Any:
    """`transformers.HfArgumentParser` without the rest of transformers, whose import takes over a second."""
    package: Any = find_spec("transformers")  # finds it, and does not import it
    file = Path(package.origin).with_name("hf_argparser.py")
    spec: Any = spec_from_file_location("transformers.hf_argparser", file)
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HfArgumentParser


if TYPE_CHECKING:
    from transformers import HfArgumentParser
else:
    HfArgumentParser = _parser_of_transformers()

# What `--switch WORD` takes as the switch's value. The parser also knows y, n, t and f, which `--switch=y` may still
# be; apart from the switch they could be the name of a file.
_BOOLEAN_WORDS = {"yes", "no", "true", "false", "1", "0"}


def suggestion(word: str, known: Iterable[str]) -> str:
    """`", did you mean 'X'?"` with the closest of the known words, or the empty string if none is close."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.75)
    return f", did you mean {' or '.join(map(repr, close))}?" if close else ""


def shown_names(action: argparse.Action) -> list[str]:
    """An option's names, each once: the parser accepts all with underscores and with hyphens."""
    spelled = action.option_strings
    return [s for s in spelled if (twin := "--" + s[2:].replace("-", "_")) == s or twin not in spelled]


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's line breaks, names each option once, and shows a default only if there is one."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = shown_names(action)
        if action.nargs == 0:
            return ", ".join(names)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(names)} {value}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 or action.default in (None, "", argparse.SUPPRESS) or action.default == []:
            return action.help
        return super()._get_help_string(action)


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Marks a parameter of `run` whose options begin with a word.

    With `policy: Annotated[GeneratorOptions, Prefix("policy")]`, the option `backend` is `--policy_backend`, and
    `model` is `--policy`.

    Attributes:
        word: The word.
    """

    word: str

    def name(self, field: str) -> str:
        """The name of a field's option."""
        return self.word if field == "model" else f"{self.word}_{field}"


class OptionParser(HfArgumentParser):
    """The parser that TRL's commands build on, with checked configuration files and a short usage line.

    Args:
        dataclass_types: Dataclasses whose fields are the options; `Annotated` with a `Prefix` where they have one.
        prog: The command as the user types it.
        description: Shown by `--help`.
    """

    def __init__(self, dataclass_types: Sequence[Any], *, prog: str, description: str | None = None):
        super().__init__(
            [],
            prog=prog,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,  # an abbreviation that works today is ambiguous after the next option is added
        )
        self._hints: dict[str, Any] = {}
        self.config_file: str | None = None  # the one that was read
        self._where: str | None = None  # what is read, if it is no command line
        self._parts = [self._add_options(kind) for kind in dataclass_types]
        self.add_argument(
            "--config", metavar="FILE", help="YAML file with values for these options; the command line wins."
        )
        for names, settings in (
            (("-v", "--verbose"), {"help": "Show more of what happens, with the log lines of other libraries."}),
            (("-q", "--quiet"), {"help": "Show only errors and results."}),
            (("--debug",), {"help": "Show the traceback of an error."}),
        ):
            # transformers.TrainingArguments has a field `debug`, which then keeps the name.
            if names[-1].lstrip("-") not in self._hints:
                self.add_argument(*names, action="store_true", **settings)
        self.usage = self._short_usage()

    def _add_options(self, annotated: Any) -> Callable[[argparse.Namespace], Any]:
        """Adds a dataclass's options, and returns what makes the dataclass of the values."""
        kind, *marks = get_args(annotated) if get_origin(annotated) is Annotated else [annotated]
        hints, names = get_type_hints(kind), {}
        for field in dataclasses.fields(kind):
            if not field.init:
                continue
            option = copy.copy(field)
            option.type = hints[field.name]
            for mark in marks:
                option.name = mark.name(field.name)
                described = {**field.metadata, "help": f"{mark.word.capitalize()}: {field.metadata['help']}"}
                option.metadata = MappingProxyType(described)
            names[field.name] = option.name
            if option.name not in self._hints:
                self._hints[option.name] = option.type
                self._parse_dataclass_field(self, option)
        return lambda values: kind(**{field: getattr(values, name) for field, name in names.items()})

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Adds an option as `argparse` does, with the forms that this project's dataclasses use.

        A field marked `positional` becomes a positional argument, which may be left out unless it is required. An
        option of type dict reads JSON. Help texts show what a switch takes and what its negation does.

        Args:
            *names: The option's names, beginning with its field's.
            **settings: Arguments of `argparse`, and the marks of the field's metadata.

        Returns:
            The option that was added.
        """
        settings.pop("operational", None)
        settings.pop("reads", None)
        if settings.pop("positional", False):
            name = names[0].lstrip("-")
            settings.setdefault("metavar", name.upper())
            # A positional argument is required unless `nargs` says otherwise; argparse refuses the keyword here.
            if not settings.pop("required", False):
                settings["nargs"] = "*" if settings.get("nargs") == "+" else "?"
            return super().add_argument(name, **settings)
        if dict in (kind := settings.get("type"), get_origin(kind)):
            settings["type"] = mapping
            settings.setdefault("metavar", "JSON")
        if settings.get("nargs") == "?" and settings.get("const") is True:
            settings.setdefault("metavar", "BOOL")
        if settings.get("action") == "store_false":
            settings["help"] = f"Turn --{settings['dest']} off."
        return super().add_argument(*names, **settings)

    def _short_usage(self) -> str:
        """Names what is required; the rest of up to hundreds of options is `--help`'s to list."""
        parts = [self.prog]
        for action in self._actions:
            metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
            if not action.option_strings:
                parts.append(metavar if action.required else f"[{metavar}]")
            elif action.required:
                parts.append(f"{action.option_strings[0]} {metavar}")
        return " ".join([*parts, "[--config FILE]", "[options]"]).replace("%", "%%")

    def error(self, message: str) -> NoReturn:
        """Prints usage and message to stderr and exits with code 2; for a part of a file it raises `ConfigError`."""
        if self._where is not None:
            raise ConfigError(f"{self._where}: {message} (see {self.prog} --help)")
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {mask_text(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def parse(
        self, arguments: Sequence[str], config: Mapping[str, Any] | None = None, where: str = "config"
    ) -> tuple[Any, ...]:
        """Reads a command line.

        Args:
            arguments: The words after the subcommand's name.
            config: Values as a configuration file holds them, for what the command line does not say. Then nobody has
                typed the command line, and all errors are about these values.
            where: What errors call `config`.

        Returns:
            One object for each dataclass. (`verbose`, `quiet` and `debug` are the caller's to look for.)

        Raises:
            ConfigError: A configuration file cannot be used.
            SystemExit: The code is 2 for a usage error (after printing it), and 0 after `--help`.
        """
        self._where = None if config is None else where
        words = self._normalised(arguments)
        if "-h" in words or "--help" in words:
            self.print_help()
            self.exit(0)
        self._check_names(words)
        if config is not None:
            self._set_defaults(config, where)
        if "--config" in words:
            at = words.index("--config")
            if at + 1 == len(words) or "--config" in words[at + 1 :]:
                self.error("argument --config: expected one file")
            self.config_file = words[at + 1]
            self._read_config(self.config_file)
            del words[at : at + 2]
        values, rest = self.parse_known_args(words)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        try:
            return tuple(make(values) for make in self._parts)
        except GenPRMError:
            raise
        except ZeroDivisionError as error:  # TRL divides by batch sizes before anything looks at them
            raise ConfigError("a batch size, or a number of steps or generations, must not be 0") from error
        except (ValueError, ImportError) as error:
            # The dataclasses' own checks, such as those of `TrainingArguments.__post_init__`.
            raise ConfigError(str(error)) from error

    def _normalised(self, arguments: Sequence[str]) -> list[str]:
        """Splits `--config=FILE`, and gives a bare switch its value. It would take a positional argument for it."""
        switches = {
            name
            for action in self._actions
            if action.nargs == "?" and action.const is True
            for name in action.option_strings
        }
        words: list[str] = []
        for index, word in enumerate(arguments):
            following = arguments[index + 1].lower() if index + 1 < len(arguments) else ""
            if word == "--":
                return [*words, *arguments[index:]]
            if word.startswith("--config="):
                words += ["--config", word.removeprefix("--config=")]
            elif word in switches and following not in _BOOLEAN_WORDS:
                words.append(f"{word}=true")
            else:
                words.append(word)
        return words

    def _check_names(self, words: Sequence[str]) -> None:
        """Reports an unknown option first: argparse would rather complain about what is missing because of it."""
        known = [name for action in self._actions for name in action.option_strings]
        for word in words:
            if word == "--":
                return
            name = word.split("=", 1)[0]
            if re.fullmatch(r"--\w[\w-]*", name) and name not in known:
                self.error(f"unknown option {name}{suggestion(name, known)}")

    def _read_config(self, path: str) -> None:
        """Takes defaults from a configuration file, and sets the environment variables under its key `env`."""
        where = f"config file {path}"
        try:
            config = load_yaml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where}: is not UTF-8 text") from error
        except yaml.YAMLError as error:
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
            line = f", line {mark.line + 1}" if mark else ""
            raise ConfigError(f"{where}{line}: is not valid YAML: {problem or error}") from error
        if not isinstance(config, dict):
            raise ConfigError(f"{where}: must hold a mapping of option names to values")
        variables = config.pop("env", {})
        if not isinstance(variables, dict):
            raise ConfigError(f"{where}, key 'env': must be a mapping of environment variables to values")
        self._set_defaults(config, where)
        os.environ.update({str(name): str(value) for name, value in variables.items()})

    def _set_defaults(self, config: Mapping[str, Any], where: str) -> None:
        # Where a switch has a complement `--no_x`, the first action of the two is the one that takes a value.
        actions = {action.dest: action for action in reversed(self._actions) if action.dest in self._hints}
        for key, value in config.items():
            if key not in actions:
                raise ConfigError(
                    f"{where}, key '{key}': {self.prog} has no such option{suggestion(str(key), actions)}"
                )
            action = actions[key]
            try:
                action.default = self._checked(action, value)
            except argparse.ArgumentError as error:
                raise ConfigError(f"{where}, key '{key}': {error.message}") from error
            action.required = False

    def _checked(self, action: argparse.Action, value: Any) -> Any:
        """A configuration file's value, which argparse checks as it checks the words of a command line."""
        hint = self._hints[action.dest]
        kinds = {get_origin(kind) or kind for kind in (hint, *get_args(hint))}
        if value is None:
            if NoneType not in kinds and (action.required or action.default is not None):
                raise argparse.ArgumentError(None, "must not be empty")
            return None
        several = action.nargs in ("+", "*")
        if several and not isinstance(value, list):
            raise argparse.ArgumentError(None, f"expected a list, not {value!r}")
        if type(value) in kinds & {dict, list} and not several:
            return value
        items = value if several else [value]
        for item in items:
            if isinstance(item, dict | list | NoneType):
                raise argparse.ArgumentError(None, f"expected one value, not {item!r}")
            # YAML reads a bare `yes` or `off` as a boolean; as text it would silently become "True".
            if isinstance(item, bool) and action.type is str:
                raise argparse.ArgumentError(None, f"expected text, not {item!r}")
        return self._get_values(action, [str(item) for item in items])


def mapping(text: str) -> dict[str, Any]:
    """A mapping given on the command line, as JSON."""
    try:
        value = parse_json(text)
    except DataError as error:
        place = f", key '{error.field}'" if error.field else ""
        raise argparse.ArgumentTypeError(f"{text!r}{place}: {error.message}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object, such as '{{\"name\": 1}}'")
    return value


def option_types(run: Any) -> list[Any]:
    """The dataclasses that a command's `run` takes, in order, from its annotations."""
    hints = get_type_hints(run, include_extras=True)
    types = [hint for name, hint in hints.items() if name != "return"]
    if not types or not all(dataclasses.is_dataclass(getattr(hint, "__origin__", hint)) for hint in types):
        raise TypeError(f"{run.__module__}.run must annotate each of its parameters with a dataclass of options")
    return types
