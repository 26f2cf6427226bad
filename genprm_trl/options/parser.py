"""Reading a subcommand's options: TRL's parser, plus positional arguments and errors that say what to change.

An option is a dataclass field with `metadata={"help": ...}`, as in TRL's scripts; whatever else `metadata` holds goes
to `argparse.ArgumentParser.add_argument`. A field with `"positional": True` is given without its name:

```python
@dataclass
class VerifyOptions:
    file: str = field(metadata={"help": "Solutions to judge.", "positional": True})
    model: str = field(metadata={"help": "Model directory or Hub id."})
    n: int = field(default=1, metadata={"help": "Chains a solution."})
```
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser

from genprm_trl.errors import ConfigError

# What `--switch WORD` takes as the switch's value. TRL's parser also knows y, n, t and f, which `--switch=y` may still
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


class OptionParser(TrlParser):
    """`TrlParser` for one subcommand: `--config` with checked keys and values, positional fields, short usage.

    Args:
        dataclass_types: Dataclasses whose fields are the options.
        prog: The command as the user types it.
        description: Shown by `--help`.
    """

    def __init__(self, dataclass_types: Sequence[Any], *, prog: str, description: str | None = None):
        super().__init__(
            list(dataclass_types),
            prog=prog,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,  # an abbreviation that works today is ambiguous after the next option is added
        )
        self._hints = {name: hint for kind in dataclass_types for name, hint in get_type_hints(kind).items()}
        self.add_argument(
            "--config", metavar="FILE", help="YAML file with values for these options; the command line wins."
        )
        for names, settings in (
            (("-v", "--verbose"), {"help": "Show more of what happens, other libraries' log lines included."}),
            (("-q", "--quiet"), {"help": "Show errors and results alone."}),
            (("--debug",), {"help": "Show the traceback of an error."}),
        ):
            # transformers.TrainingArguments has a field `debug` of its own, which then keeps the name.
            if names[-1].lstrip("-") not in self._hints:
                self.add_argument(*names, action="store_true", **settings)
        self.usage = self._short_usage()

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        if settings.pop("positional", False):
            name = names[0].lstrip("-")
            settings.setdefault("metavar", name.upper())
            # A positional argument is required unless `nargs` says otherwise; argparse refuses the keyword here.
            if not settings.pop("required", False):
                settings["nargs"] = "*" if settings.get("nargs") == "+" else "?"
            return super().add_argument(name, **settings)
        if dict in (kind := settings.get("type"), get_origin(kind)):
            settings["type"] = _json_object
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
        """Prints the usage and the message to stderr and exits with code 2."""
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def parse(
        self, arguments: Sequence[str], config: Mapping[str, Any] | None = None, where: str = "config"
    ) -> tuple[Any, ...]:
        """Reads a command line.

        Args:
            arguments: The words after the subcommand's name.
            config: Values as a configuration file holds them, for what the command line does not say.
            where: What errors call `config`.

        Returns:
            One object for each dataclass. (`verbose`, `quiet` and `debug` are the caller's to look for.)

        Raises:
            ConfigError: For a configuration file that cannot be used.
            SystemExit: With code 2 for a usage error (after printing it), with 0 after `--help`.
        """
        words = self._normalised(arguments)
        if "-h" in words or "--help" in words:
            self.print_help()
            self.exit(0)
        self._check_names(words)
        if config is not None:
            self.set_defaults_with_config(**self._checked_values(config, where))
        if "--config" in words:
            at = words.index("--config")
            if at + 1 == len(words) or "--config" in words[at + 1 :]:
                self.error("argument --config: expected one file")
            self.set_defaults_with_config(**self._read_config(words[at + 1]))
            del words[at : at + 2]
        try:
            *options, _, rest = self.parse_args_into_dataclasses(
                words, return_remaining_strings=True, look_for_args_file=False
            )
        except ValueError as error:
            # The dataclasses' own checks, such as those of `TrainingArguments.__post_init__`.
            raise ConfigError(str(error)) from error
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return tuple(options)

    def _normalised(self, arguments: Sequence[str]) -> list[str]:
        """Splits `--config=FILE`, and gives a bare switch its value lest it swallow a positional argument."""
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

    def _read_config(self, path: str) -> dict[str, Any]:
        """Reads and checks a configuration file, and sets the environment variables under its key `env`.

        This stands in for `TrlParser.parse_args_and_config`, whose values become argparse defaults unchecked: neither
        their types nor their choices are looked at. The rules are the same.
        """
        where = f"config file {path}"
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
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

        values = self._checked_values(config, where)
        os.environ.update({str(name): str(value) for name, value in variables.items()})
        return values

    def _checked_values(self, config: Mapping[str, Any], where: str) -> dict[str, Any]:
        # Where a switch has a complement `--no_x`, the first action of the two is the one that takes a value.
        actions = {action.dest: action for action in reversed(self._actions) if action.dest in self._hints}
        values = {}
        for key, value in config.items():
            if key not in actions:
                raise ConfigError(
                    f"{where}, key '{key}': {self.prog} has no such option{suggestion(str(key), actions)}"
                )
            try:
                values[key] = _checked(actions[key], self._hints[key], value)
            except ValueError as error:
                raise ConfigError(f"{where}, key '{key}': {error}") from error
        return values


def _json_object(text: str) -> dict[str, Any]:
    """A mapping given on the command line."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _checked(action: argparse.Action, hint: Any, value: Any) -> Any:
    """A configuration file's value as the option's type; `ValueError` if it cannot be that."""
    if value is None:
        if action.default is not None and not _mentions(hint, NoneType):
            raise ValueError("must not be empty")
        return None
    if isinstance(value, dict) and _mentions(hint, dict):
        return value
    wants_list = action.nargs in ("+", "*")
    if isinstance(value, list) and (wants_list or _mentions(hint, list)):
        return [_checked_item(action, item) for item in value]
    if isinstance(value, dict | list) or wants_list:
        raise ValueError(f"expected {'a list' if wants_list else _wanted(action)}, not {value!r}")
    return _checked_item(action, value)


def _checked_item(action: argparse.Action, item: Any) -> Any:
    # YAML reads a bare `yes` or `off` as a boolean; as text it would silently become "True".
    if isinstance(item, dict | list) or (item is None) or (isinstance(item, bool) and action.type is str):
        raise ValueError(f"expected {_wanted(action)}, not {item!r}")
    if callable(action.type):
        try:
            converted = action.type(str(item))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"expected {_wanted(action)}, not {item!r}") from error
    else:
        converted = item
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"expected {_wanted(action)}, not {item!r}")
    return converted


def _mentions(hint: Any, kind: type) -> bool:
    """Whether a type hint allows values of a kind: `list[str] | None` mentions list and NoneType."""
    return hint is Any or hint is kind or get_origin(hint) is kind or any(_mentions(a, kind) for a in get_args(hint))


def _wanted(action: argparse.Action) -> str:
    if action.choices is not None:
        return f"one of {', '.join(map(str, action.choices))}"
    name = getattr(action.type, "__name__", "value")
    return {
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "Path": "a path",
        "string_to_bool": "true or false",
        "_json_object": "a mapping",
    }.get(name, f"a {name}")


def option_types(run: Any) -> list[Any]:
    """The dataclasses that a command's `run` takes, in order, from its annotations."""
    hints = get_type_hints(run)
    types = [hint for name, hint in hints.items() if name != "return"]
    if not types or not all(dataclasses.is_dataclass(hint) for hint in types):
        raise TypeError(f"{run.__module__}.run must annotate each of its parameters with a dataclass of options")
    return types
