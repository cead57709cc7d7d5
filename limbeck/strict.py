"""YAML as plain data: no code, no alias, no key twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from limbeck.errors import RecipeError


class _Strict(yaml.SafeLoader):
    """YAML without code, without aliases and without a key that stands twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.line + 1
            raise RecipeError(f"line {line}: YAML aliases are not read; write it out.")
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
            return (
                int(str(found)) if type(found) is int else found
            )  # hexadecimal ones have no limit
        except (ValueError, LookupError, ArithmeticError, AttributeError) as reason:
            line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
            raise RecipeError(
                f"line {line}: {str(node.value)[:40]!r} cannot be read as {kind}; write it otherwise, or as a word in quotes."
            ) from reason

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                line = key_node.start_mark.line + 1
                raise RecipeError(f"line {line}: the key {key!r} is no word.")
            if key in seen:
                raise RecipeError(f"line {key_node.start_mark.line + 1}: '{key}' stands twice.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def text_of(path: Path) -> str:
    """The text of a file; raises RecipeError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as reason:
        raise RecipeError(f"{path}: not UTF-8: {reason}") from reason


def parse_yaml(text: str, where: str) -> Any:
    """YAML as plain data, strictly."""
    try:
        return yaml.load(text, Loader=_Strict)  # noqa: S506 (a SafeLoader)
    except RecipeError as reason:
        raise RecipeError(f"{where}: {reason}") from reason
    except (yaml.YAMLError, RecursionError) as reason:
        raise RecipeError(f"{where}: not readable as YAML: {reason}") from reason
