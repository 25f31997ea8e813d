"""YAML as users write it: a mapping, in which no key stands twice and nothing runs."""

import reprlib
from collections import Counter
from typing import Any

from statshift._core.errors import InputError

SHORT = reprlib.Repr()
"""How a wrong value is shown: a few lines of YAML may stand for gigabytes."""

LONGEST_YAML, DEEPEST_YAML = 1 << 20, 50
"""Characters and levels of a file, at most."""

SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, 80, 80


def load_strictly(text: str, where: str, what: str = "a recipe, names and values") -> dict[Any, Any]:
    """Return the mapping that a text holds; errors say where it stands and what it should be."""
    import yaml

    class Strict(yaml.SafeLoader):
        """The safe loader, which does not let a key stand twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            if twice := [key for key, count in Counter(keys).items() if count > 1]:
                raise yaml.YAMLError(f"the key {twice[0]!r} stands twice, in line {node.start_mark.line + 1} or below")
            return super().construct_mapping(node, deep)

    try:
        _check_size(text)
        content = yaml.load(text, Loader=Strict)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise InputError(f"{where} is not YAML: {told.rstrip('. ^')}.") from error
    if not isinstance(content, dict):
        raise InputError(f"Expected {where} to hold {what}, but got {shown_value(content)}.")
    return content


def shown_value(value: Any) -> str:
    """Return a value in short, as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else SHORT.repr(value)


def _check_size(text: str) -> None:
    """Check that a text is no longer, and nested no deeper, than a file may be; the first level too many ends the look.

    Raises:
        ValueError: it is.
    """
    import yaml

    if len(text) > LONGEST_YAML:
        raise ValueError(f"it has {len(text):,} characters, more than {LONGEST_YAML:,}")
    starts = (
        *(yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken),
        *(yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken),
    )
    ends = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, starts) - isinstance(token, ends)
        if depth > DEEPEST_YAML:
            raise ValueError(f"it is nested deeper than {DEEPEST_YAML} levels, in line {token.start_mark.line + 1}")
