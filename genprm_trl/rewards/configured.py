"""The verifier's reward by its import path alone, for command lines: a file that the environment names sets it up."""

from __future__ import annotations

import inspect
import os
import threading
from pathlib import Path
from typing import Any

import yaml

from genprm_trl.errors import ConfigError
from genprm_trl.rewards.verification import GenPRMReward
from genprm_trl.rows.strict_yaml import load_yaml

CONFIG_VARIABLE = "GENPRM_REWARD_CONFIG"

_lock = threading.Lock()
_reward: GenPRMReward | None = None


async def genprm_reward(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float | None]:
    """`GenPRMReward` as TRL's commands name a reward: `reward_funcs: [genprm_trl.rewards.genprm_reward]`.

    The environment variable GENPRM_REWARD_CONFIG names a YAML file with the arguments of `GenPRMReward` (`verifier` or
    `server`, `aggregate`, `n`, ...) and of `GenPRM.from_pretrained`. It is read, and the verifier loaded, at the first
    batch; all later ones use the same.

    Raises:
        ConfigError: The variable is not set, or the file cannot be used.
    """
    return await _configured()(prompts, completions, **kwargs)


def read_config(path: str | Path) -> dict[str, Any]:
    """The arguments for `GenPRMReward` in a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not a mapping, or names neither a verifier nor a server.
    """
    try:
        config = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ConfigError(f"{path} must hold the arguments of GenPRMReward, a name and a value each")
    if not {"verifier", "server"} & set(config):
        names = [name for name in inspect.signature(GenPRMReward).parameters if name != "options"]
        raise ConfigError(f"{path} names no verifier and no server; it may hold {', '.join(names)}")
    return config


def _configured() -> GenPRMReward:
    global _reward
    with _lock:
        if _reward is None:
            path = os.environ.get(CONFIG_VARIABLE)
            if not path:
                raise ConfigError(
                    f"genprm_reward needs the environment variable {CONFIG_VARIABLE}: the path of a YAML file such as "
                    "'verifier: GenPRM/GenPRM-7B'"
                )
            try:
                _reward = GenPRMReward(**read_config(path))
            except (ConfigError, TypeError) as error:
                raise ConfigError(f"{CONFIG_VARIABLE}={path}: {error}") from error
        return _reward
