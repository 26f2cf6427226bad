"""YAML in which a key that is given twice is an error: the standard leaves open which one wins."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<` may be overridden, that is what it is for
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Reads YAML with its plain types.

    Raises:
        yaml.YAMLError: The text is not YAML, a mapping has a key twice, or a number or a date cannot be read.

    Examples:
        >>> load_yaml("n: 8")
        {'n': 8}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ValueError as error:  # an integer of thousands of digits, or the 32nd of a month
        problem = str(error).partition(";")[0]
        raise yaml.YAMLError(f"a number or date cannot be read ({problem}); give it as text, in quotes") from None
