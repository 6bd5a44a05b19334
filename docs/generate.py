"""Write `docs/reference/` from the code (options, hooks, kinds of driver), and the index of packages for errors.

python docs/generate.py            writes them
python docs/generate.py --check    says which one differs from the code, and exits with 1
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable
from pathlib import Path

from pydantic.fields import FieldInfo

from sgcore import api, hookspecs
from sgcore.cli_serve import ALIASES, HIDDEN
from sgcore.config import Choices
from sgcore.plugins.drivers import KINDS
from sgcore.plugins.installed import HOOK_GROUP

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `make docs` from the code; edit the text there. -->"

ABOUT_OPTIONS = """\
Each option can be given as a flag of `sgcore serve`, as an environment variable `SGCORE_NAME`, in a file that
`--config` names, and as an argument of `sgcore.Engine`. In Python and in files its name has `_` for `-`. `sgcore serve
--explain` prints every resolved value and who set it."""

ABOUT_HOOKS = """\
An answer of None is no answer. Plugins are asked in the order of their entry point names. *First answer counts* means
that plugins after the first one that answers are not asked.

| a plugin that | is |
|---|---|
| requires another sgcore | listed, never imported |
| raises anything when its module is imported | disabled; the server starts |
| implements an unknown hook, or asks for an unknown argument | disabled |
| has a function with a hook's name and no `@hookimpl` | disabled |
| uses a hook wrapper | disabled |
| raises in a hook | disabled from then on; the others still answer |

`sgcore doctor` shows which plugins are disabled and why. `--strict-plugins` raises the plugin's own error instead;
`--disable-plugin` leaves one out without importing it."""

ABOUT_DRIVERS = """\
A driver is one of many, chosen by a name that is already known and imported only then. It is an entry point:

```toml
[project.entry-points."sgcore.models"]
MyModelForCausalLM = "my_package.model:MyModelForCausalLM"
```"""

ABOUT_CHOICE = """\
The first rule that gives a name decides; `sgcore serve MODEL --explain` shows which one it was.

| kind | 1 | 2 | 3 | 4 |
|---|---|---|---|---|
| model | `--model-impl` | `sgcore_resolve_architecture` | `architectures[0]` | `sgcore_fall_back` |
| platform | `--platform` | the one device that plugins offer | the one fallback that they offer | |
| attention | `--attention-backend` | `sgcore_select_attention` | `Platform.default_attention` | |
| quantization | `--quantization` | `sgcore_select_quantization` | `quantization_config.quant_method` | |
| weights | `--load-format` | `sgcore_select_weights` | | |
| parser | its flag | the tokenizer's `response_template` | `sgcore_select_tool_call_parser`, `…_reasoning_parser` | |
| grammar | `--grammar-backend` | `sgcore_select_grammar` | none: constraints get 400 | |
| primitive | the word that a program uses | | | |

A driver that was chosen is never replaced by another: if it doesn't load, the start ends with its own error."""

ABOUT_CONFLICTS = """\
Two distributions that offer one name end the start with an error that names both; `--prefer NAME=DISTRIBUTION` says
which one counts. A distribution whose requirement on `sgcore` excludes the installed one is listed, not imported."""


def options() -> str:
    """Every option, a table a concern."""
    parts = ["# Options", NOTE, ABOUT_OPTIONS]
    for group in Choices.model_fields.values():
        record = _record(group)
        parts += [f"## {_text(record).rstrip('.')}", _table(record.model_fields)]
    return "\n\n".join(parts) + "\n"


def _record(group: FieldInfo) -> typing.Any:
    return group.annotation


def _table(fields: dict[str, FieldInfo]) -> str:
    rows = ["| option | type | default | |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = "required" if field.is_required() else _literal(field.get_default(call_default_factory=True))
        flags = (f"--{name.replace('_', '-')}", *ALIASES.get(name, ()))
        shown = f"{name} (no flag)" if name in HIDDEN else ", ".join(f"`{flag}`" for flag in flags)
        rows.append(f"| {shown} | {_type(field.annotation)} | {default} | {field.description} |")
    return "\n".join(rows)


def _literal(value: object) -> str:
    return "" if value in (None, (), {}) else f"`{value}`"


def _type(annotation: typing.Any) -> str:
    if isinstance(annotation, types.UnionType):
        return " or ".join(_type(part) for part in annotation.__args__ if part is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in annotation.__args__)
    if typing.get_origin(annotation) is tuple:
        return f"{_type(annotation.__args__[0])}, repeated"
    return {"str": "text", "int": "integer", "float": "number", "bool": "flag"}.get(annotation.__name__, "name=value")


def hooks() -> str:
    """Every hook with its signature and its text, in the order of a server's start."""
    parts = ["# Hooks", NOTE, _text(hookspecs), ABOUT_HOOKS]
    for name, function in vars(hookspecs).items():
        mark = getattr(function, "sgcore_spec", None)
        if mark is None:
            continue
        signature = str(inspect.signature(function)).replace("'", "")
        first = "\n\n*First answer counts.*" if mark["firstresult"] else ""
        parts.append(f"## {name}\n\n```python\ndef {name}{signature}\n```\n\n{_text(function)}{first}")
    return "\n\n".join(parts) + "\n"


def drivers() -> str:
    """Every kind of driver: group, name, class and what the class must have."""
    rows = ["| kind | entry point group | the name is | class in `sgcore.api` |", "|---|---|---|---|"]
    rows += [
        f"| {k.name} | `{k.group}` | {k.chosen_by} | [`{k.contract}`](#{k.contract.lower()}) |" for k in KINDS.values()
    ]
    parts = [
        "# Drivers",
        NOTE,
        ABOUT_DRIVERS,
        "\n".join(rows),
        ABOUT_CHOICE,
        ABOUT_CONFLICTS,
    ]
    parts += [_contract(getattr(api, kind.contract)) for kind in KINDS.values()]
    parts.append(_contract(api.CallMarkup))
    return "\n\n".join(parts) + "\n"


def _contract(contract: type) -> str:
    parts = [f"## {contract.__name__}", _text(contract)]
    parts += [
        f"- `{name}: {_plain(annotation)}`{_default(contract, name)}"
        for name, annotation in inspect.get_annotations(contract).items()
    ]
    for name, member in vars(contract).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        is_made = name == "__init__" and dataclasses.is_dataclass(contract)
        if not inspect.isfunction(function) or (name.startswith("_") and name != "__init__") or is_made:
            continue
        kind = "abstract" if getattr(member, "__isabstractmethod__", False) else "has a default"
        signature = str(inspect.signature(function)).replace("'", "")
        text = " ".join(_text(function).split()) if function.__doc__ else ""
        parts.append(f"- `{name}{signature}` ({kind}). {text}".rstrip())
    return "\n\n".join(parts[:2]) + "\n\n" + "\n".join(parts[2:])


def _plain(annotation: str) -> str:
    inner = annotation.removeprefix("ClassVar[")
    return annotation if inner == annotation else inner.removesuffix("]")


def _default(contract: type, name: str) -> str:
    return f", `{getattr(contract, name)!r}` if left alone." if hasattr(contract, name) else ": to be set."


def _text(described: object) -> str:
    return inspect.getdoc(described) or ""


def packages() -> str:
    """Every package of this repository with its names and hooks, for errors that say what to install."""
    found = {}
    for path in sorted(ROOT.glob("plugins/*/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        code = "\n".join(file.read_text(encoding="utf-8") for file in path.parent.glob("sgcore_*/hooks.py"))
        names = {group: sorted(points) for group, points in project.get("entry-points", {}).items()}
        names.pop(HOOK_GROUP, None)
        about = {"about": project["description"], "hooks": re.findall(r"^def (sgcore_\w+)", code, re.MULTILINE)}
        found[project["name"]] = about | names
    return json.dumps(found, indent=1) + "\n"


FILES: dict[Path, Callable[[], str]] = {
    REFERENCE / "options.md": options,
    REFERENCE / "hooks.md": hooks,
    REFERENCE / "drivers.md": drivers,
    ROOT / "sgcore" / "plugins" / "packages.json": packages,
}


def main() -> int:
    stale = [path for path, text in FILES.items() if _is_stale(path, text())]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} differs from the code; run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    REFERENCE.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(FILES[path](), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def _is_stale(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text


if __name__ == "__main__":
    sys.exit(main())
