"""In which form a model writes tool calls, as its chat template shows it (pure).

A template that takes tools writes the calls of earlier turns, or tells the model how to write them. What it writes
around them is what the model writes as well:

- `hermes`: `<tool_call>{"name": …, "arguments": {…}}</tool_call>` (Hermes 2 Pro and later, Qwen 2.5 and 3);
- `qwen_xml`: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>` (Qwen 3 Coder);
- `mistral`: `[TOOL_CALLS]` and a JSON list, or a name and its arguments (Mistral, Ministral, Devstral);
- `llama`: `{"name": …, "parameters": {…}}` as the whole answer (Llama 3.1 to 3.3);
- `pythonic`: `[name(key=value), …]` as the whole answer (Llama 3.2 and 4, ToolACE).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

ToolFormat = Literal["hermes", "qwen_xml", "mistral", "llama", "pythonic"]
TOOL_FORMATS: tuple[ToolFormat, ...] = get_args(ToolFormat)

MARKERS: Mapping[ToolFormat, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen_xml": ("<tool_call>", "</tool_call>"),
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    "llama": ("<|python_tag|>",),
    "pythonic": ("<|python_start|>", "<|python_end|>"),
}
"""What stands around calls, and may be special tokens of the model: these are shown where calls are read."""

_TAKES_TOOLS = re.compile(r"\{[%{][^%}]*\btools\b")
_PYTHONIC = re.compile(r"\[\s*func(?:tion)?_?(?:name)?1?\s*\(|<\|python_start\|>")


def tool_format(template: str) -> ToolFormat | Literal["unknown"] | None:
    """The form in which a template's model writes calls; None for a template that takes no tools."""
    if _TAKES_TOOLS.search(template) is None:
        return None
    if "<tool_call>" in template:
        return "qwen_xml" if "<function=" in template else "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if _PYTHONIC.search(template) is not None:
        return "pythonic"
    if "<|python_tag|>" in template or ('"parameters"' in template and '"name"' in template):
        return "llama"
    return "unknown"
