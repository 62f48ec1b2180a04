"""Writes `__init__.pyi`, by which mypy and editors know the errors: `python -m chain.contract_errors.stub`.

To be run after the contracts' errors have changed; a test says when it has not been.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from chain.contract_errors.classes import make_all

STUB: Final = Path(__file__).with_name("__init__.pyi")
WIDTH: Final = 120


def text() -> str:
    """What the stub has to say: each class with its arguments as attributes and in its constructor."""
    lines = [
        '"""One class per custom error of the contracts. Written by `python -m chain.contract_errors.stub`."""',
        "",
        "from chain.contract_errors.decode import decode_revert as decode_revert",
        "from chain.contract_errors.decode import revert_data as revert_data",
        "from chain.errors import ContractError",
    ]
    plain = False
    for name, cls in make_all().items():
        # As ruff formats it: no empty line between classes without a body.
        if not plain or cls.parameters:
            lines.append("")
        plain = not cls.parameters
        lines.append(f"class {name}(ContractError):" + " ..." * plain)
        typed = [f"{argument}: {_python(kind)}" for argument, kind in cls.parameters]
        lines += [f"    {each}" for each in typed]
        head = f"    def __init__(self, {', '.join(typed)}) -> None: ..."
        if typed and len(head) <= WIDTH:
            lines.append(head)
        elif typed:
            lines += ["    def __init__(", f"        self, {', '.join(typed)}", "    ) -> None: ..."]
    return "\n".join(lines) + "\n"


def _python(kind: str) -> str:
    if kind.endswith("]"):
        return f"list[{_python(kind[: kind.rindex('[')])}]"
    if kind.startswith(("uint", "int")):
        return "int"
    if kind.startswith("bytes"):
        return "bytes"
    return {"bool": "bool"}.get(kind, "str")


if __name__ == "__main__":
    STUB.write_text(text(), encoding="utf-8")
