"""CEL expressions: find them by lexing, compile them with a type check, evaluate them. The only door to CEL.

Names with dots (`steps.web.outputs.url`) are declared as variables of their own, so that a wrong one is an error with
its column at validation. CEL is the Common Expression Language, https://cel.dev.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, Final

import msgspec

from runner import confidential, masking

STATUS_FUNCTIONS: Final = ("success", "failure", "always", "cancelled")

# CEL's own names of the types that workflows use.
_TYPES: Final = {
    "string": "STRING",
    "int": "INT",
    "double": "DOUBLE",
    "bool": "BOOL",
    "list": "LIST",
    "map": "MAP",
    "dyn": "DYN",
}

_FAULT: Final = r"ERROR: <input>:(-?\d+):(-?\d+): (.*)"


class Flaw(msgspec.Struct, frozen=True):
    """Why an expression cannot be compiled: `line` and `column` count from 1 inside the expression's source."""

    line: int
    column: int
    message: str
    hint: str = ""


class InvalidExpression(Exception):
    """An expression does not compile; `flaws` has every reason."""

    def __init__(self, flaws: tuple[Flaw, ...]) -> None:
        super().__init__(flaws[0].message)
        self.flaws = flaws


class EvaluationError(Exception):
    """An expression compiled, but has no value now: a missing field, a wrong type, a division by zero."""

    def __init__(self, source: str, message: str) -> None:
        super().__init__(f"{source}: {message}")
        self.source = source
        self.message = message


class _Status(threading.local):
    """What the status functions answer while an expression is evaluated in this thread."""

    values: Mapping[str, bool] = {}


_status = _Status()


class Expression(msgspec.Struct, frozen=True):
    """A compiled expression. `type` is what it evaluates to, in CEL's words (`string`, `int`, `bool`, `dyn`, …)."""

    source: str
    type: str
    names: frozenset[str]
    program: Any

    @property
    def asks_status(self) -> bool:
        """Whether a status function occurs in it; otherwise `if` means `success() && (…)`."""
        return bool(self.names & {f"{name}()" for name in STATUS_FUNCTIONS})

    def evaluate(self, values: Mapping[str, Any], status: Mapping[str, bool] | None = None) -> Any:
        """The value as plain Python. Raises `EvaluationError`."""
        _status.values = status or {}
        try:
            value = self.program.eval(data={name: values[name] for name in self.names if name in values})
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            raise EvaluationError(self.source, _plain_words(str(error))) from None
        if value.type().name() == "ERROR":
            raise EvaluationError(self.source, _plain_words(str(value.value())))
        try:
            return _plain(value.plain_value())
        except TypeError:  # so says the library when the memory is not enough
            raise EvaluationError(self.source, "its value is too large") from None


class Template(msgspec.Struct, frozen=True):
    """A string with `${{ }}` in it: literal texts and expressions in turn."""

    parts: tuple[str | Expression, ...]

    @property
    def expressions(self) -> Iterator[Expression]:
        return (part for part in self.parts if isinstance(part, Expression))

    def render(self, values: Mapping[str, Any]) -> Any:
        """The text with values inserted; a template that is one expression keeps the value's type."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return _masked_later(self.parts[0], values)
        return "".join(part if isinstance(part, str) else text(_masked_later(part, values)) for part in self.parts)


def _masked_later(expression: Expression, values: Mapping[str, Any]) -> Any:
    """The value of an expression. What is computed from a value that is masked is masked from now on, too."""
    result = expression.evaluate(values)
    if isinstance(result, str | list | dict):
        read = {name: values[name] for name in expression.names - {"env"} if name in values}
        environment = values.get("env") or {}
        read |= {name: environment[name] for name in keys_of("env", expression.source) if name in environment}
        if result not in read.values() and any(masking.mask(value) != value for value in read.values()):
            masking.hide(confidential.computed(result, _literals(expression.source), read))
    return result


class Piece(msgspec.Struct, frozen=True):
    """A part of a string as `split` finds it: literal text, or the source of an expression and where it starts."""

    source: str
    is_expression: bool
    offset: int
    complete: bool = True


@cache
def _token() -> re.Pattern[str]:
    """CEL's tokens, as far as finding the end of an expression needs them. Compiled when the first one is met."""
    return re.compile(
        r"""(?P<string>[rRbB]{0,2}(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
          |(?P<comment>//[^\n]*)
          |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
          |(?P<open>[{])|(?P<close>[}])
          |(?P<other>.)""",
        re.VERBOSE | re.DOTALL,
    )


def has_expression(value: object) -> bool:
    return isinstance(value, str) and "${{" in value


def split(string: str) -> tuple[Piece, ...]:
    """Cut a string at its `${{ }}`, minding quotes, comments and braces of maps inside them."""
    pieces = []
    at = 0
    while (start := string.find("${{", at)) >= 0:
        if start > at:
            pieces.append(Piece(string[at:start], is_expression=False, offset=at))
        end = _end_of_expression(string, start + 3)
        source = string[start + 3 : end]
        pieces.append(Piece(source, is_expression=True, offset=start + 3, complete=end < len(string)))
        at = min(end + 2, len(string))
    if at < len(string) or not pieces:
        pieces.append(Piece(string[at:], is_expression=False, offset=at))
    return tuple(pieces)


def _end_of_expression(string: str, at: int) -> int:
    """The offset of the `}}` that ends the expression, or the string's length."""
    depth = 0
    for token in _token().finditer(string, at):
        if token.lastgroup == "open":
            depth += 1
        elif token.lastgroup == "close":
            if depth == 0 and string.startswith("}}", token.start()):
                return token.start()
            depth -= 1
    return len(string)


def compile(source: str, variables: Mapping[str, str], *, wanted: str = "") -> Expression:  # noqa: A001
    """Compile with a type check over variables `{dotted name: type}`. `wanted` is the type that the place asks for.

    Raises `InvalidExpression`.
    """
    if not source.strip():
        raise InvalidExpression((Flaw(1, 1, "the expression is empty", "write a value, as in ${{ inputs.name }}"),))
    found = names(source, variables)
    # Only what occurs in it: an environment with the outputs of a thousand steps takes megabytes.
    environment = _environment(tuple(sorted((name, variables[name]) for name in found & variables.keys())))
    try:
        program = environment.compile(source)
    except RuntimeError as error:
        raise InvalidExpression(_flaws(str(error), source, variables)) from None
    type_ = _type_name(program.return_type())
    if wanted and type_ not in {wanted, "dyn"}:
        raise InvalidExpression((Flaw(1, _indent(source), f"this is {_article(type_)}, where {wanted} is needed"),))
    return Expression(source.strip(), type_, found, program)


def _indent(source: str) -> int:
    return len(source) - len(source.lstrip()) + 1


@lru_cache(maxsize=64)
def _environment(variables: tuple[tuple[str, str], ...]) -> Any:
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_encoders, ext_optional, ext_strings

    def status(name: str) -> Any:
        return cel.Overload(f"{name}()", return_type=cel.Type.BOOL, parameters=[], impl=lambda: _status.values[name])

    types: dict[str, Any] = {name: _cel_type(type_) for name, type_ in variables}
    return cel.NewEnv(
        variables=types,
        extensions=[ext_strings.ExtStrings(), ext_optional.ExtOptional(), ext_encoders.ExtEncoders()],
        functions=[cel.FunctionDecl(name, [status(name)]) for name in STATUS_FUNCTIONS],
    )


def _cel_type(name: str) -> Any:
    from cel_expr_python import cel

    if name == "environment":
        return cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
    return getattr(cel.Type, _TYPES[name])


def _type_name(type_: Any) -> str:
    return str(type_.name()).split("<", 1)[0].lower()


def names(source: str, variables: Mapping[str, str]) -> frozenset[str]:
    """The declared variables (and status functions) that occur in it; at most too many, never too few."""
    paths = {
        match.group(0) for match in re.finditer(r"[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*", _without_strings(source))
    }
    dotted = {re.sub(r"\s", "", path) for path in paths}
    found = {name for name in variables if any(path == name or path.startswith(f"{name}.") for path in dotted)}
    calls = {f"{name}()" for name in STATUS_FUNCTIONS if re.search(rf"\b{name}\s*\(", _without_strings(source))}
    return frozenset(found | calls)


def keys_of(name: str, source: str) -> list[str]:
    """The keys of a map that an expression reads: `env.A` and `env["B"]`."""
    return re.findall(rf"""\b{name}\s*(?:\.\s*|\[\s*r?["'])(\w+)""", source)


def _without_strings(source: str) -> str:
    """The source with string literals and comments blanked, offsets kept."""
    blank = {"string", "comment"}
    return "".join(
        " " * len(token.group()) if token.lastgroup in blank else token.group() for token in _token().finditer(source)
    )


def _literals(source: str) -> str:
    """The string literals of the source, one after the other."""
    return " ".join(token.group() for token in _token().finditer(source) if token.lastgroup == "string")


def _flaws(report: str, source: str, variables: Mapping[str, str]) -> tuple[Flaw, ...]:
    """CEL's report, one flaw per line of it; its columns point behind names, ours at their start."""
    flaws = []
    for line, column, message in re.findall(_FAULT, report):
        if int(line) < 1:
            continue
        words, width, hint = _explain(message, source, variables)
        flaws.append(Flaw(int(line), max(1, int(column) - width), words, hint))
    return tuple(flaws) or (Flaw(1, 1, _plain_words(report)),)


def _explain(message: str, source: str, variables: Mapping[str, str]) -> tuple[str, int, str]:
    """(the message in plain words, how far before CEL's column the place begins, the hint)."""
    if name := re.match(r"undeclared reference to '([^']*)'", message):
        return _unknown_name(name.group(1), source, variables)
    if overload := re.match(r"found no matching overload for '([^']*)' applied to '([^']*)'", message):
        function, types = overload.groups()
        return f"`{function.strip('_') or function}` does not take {types}", 0, _overload_hint(types)
    if message.startswith("Syntax error"):
        short = re.sub(r" expecting .*", "", message).replace("<EOF>", "the end")
        return short[0].lower() + short[1:], 0, _syntax_hint(source)
    return message, 0, ""


def _overload_hint(types: str) -> str:
    if "int" in types and "double" in types:
        return "convert one side: double(x) or int(x)"
    if "string" in types and "int" in types:
        return "convert one side: string(x) or int(x)"
    return ""


def _syntax_hint(source: str) -> str:
    if re.search(r"\b(and|or|not)\b", _without_strings(source)):
        return "CEL writes && for and, || for or, ! for not"
    if "?" in source and ":" not in source:
        return "the conditional is `condition ? value : other value`"
    return ""


# Functions that people know from elsewhere, and what CEL calls them.
_FOREIGN: Final = {
    "contains": "CEL writes it as a method: text.contains('part')",
    "startsWith": "CEL writes it as a method: text.startsWith('part')",
    "endsWith": "CEL writes it as a method: text.endsWith('part')",
    "matches": "CEL writes it as a method: text.matches('regex')",
    "format": "join strings with +, or write several ${{ }} in one string",
    "toJSON": "a map or list inside a longer string is written as JSON already",
    "fromJSON": "`run` and `verify` parse JSON: use steps.<id>.outputs.json",
    "hashFiles": "there is no such function; compute it in a `run` step",
    "length": "CEL writes size(x)",
    "len": "CEL writes size(x)",
    "true()": "",
}
_FOREIGN_ROOTS: Final = {
    "github": "this is not GitHub Actions: pass the value as an input with `env:`",
    "secrets": "declare an input with `secret: true` and `env: NAME`",
    "matrix": "matrix is not in this version",
    "needs": "refer to a step by its id: steps.<id>.outputs.<name>",
    "values": "values given with --set or --values are under `inputs`",
    "bindings": "values are under `inputs` and `vars`",
    "item": "foreach is not in this version",
    "True": "CEL writes true",
    "False": "CEL writes false",
    "None": "CEL writes null",
}


# Roots that have names only when the file declares some.
_DECLARED: Final = {
    "inputs": "declare it: `inputs: {{{name}: …}}`",
    "vars": "declare it: `vars: {{{name}: …}}`; a var sees those before it",
    "steps": "no step before has an id: write `id: …` beside its kind",
}


def _unknown_name(name: str, source: str, variables: Mapping[str, str]) -> tuple[str, int, str]:
    # CEL reports the column of a dotted name's last dot.
    width = len(name.rsplit(".", 1)[0]) if "." in name else 0
    root = name.split(".", 1)[0]
    if name in _FOREIGN:
        return f"there is no function `{name}`", len(name), _FOREIGN[name]
    if root in _FOREIGN_ROOTS:
        return f"`{name}` is not known here", width, _FOREIGN_ROOTS[root]
    if re.search(rf"{re.escape(name)}\s*-\s*[A-Za-z_]", source) and root == "steps":
        return f"`{name}-…`: an id has no hyphen", width, "ids are made of a-z, 0-9 and _; the hyphen here is a minus"
    return f"`{name}` is not known here", width, _nearest(name, variables)


def _nearest(name: str, variables: Mapping[str, str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, variables, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    prefix = name.rsplit(".", 1)[0] + "." if "." in name else name + "."
    below = sorted(variable for variable in variables if variable.startswith(prefix))
    if below:
        return "there is " + ", ".join(f"`{variable}`" for variable in below[:6])
    roots = sorted({variable.split(".", 1)[0] for variable in variables})
    root = name.split(".", 1)[0]
    if root in _DECLARED and root not in roots:
        return _DECLARED[root].format(name=name.partition(".")[2] or "x")
    return "known names begin with " + ", ".join(f"`{root}`" for root in roots) if roots else ""


def _plain_words(message: str) -> str:
    """CEL's runtime words, for people."""
    if missing := re.search(r"Key not found in map : \"?([^\"]*)\"?", message):
        return f"there is no field `{missing.group(1)}`"
    if absent := re.search(r'No value with name "([^"]*)"', message):
        return f"`{absent.group(1)}` has no value, because its step did not run or did not succeed"
    if overload := re.search(r"No matching overloads found : (.*)", message):
        return f"types do not fit: {overload.group(1)}"
    return re.sub(r"^[A-Z_]+: ", "", message.splitlines()[0]).removesuffix("]").strip()


def _plain(value: Any) -> Any:
    """JSON-like Python: times as text, bytes as text, everything else as it is."""
    from datetime import datetime, timedelta

    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)  # CEL's own types, as type(1)


def search(pattern: str, string: str) -> bool:
    """Whether an RE2 regular expression is found in a string; linear in its length, whatever the pattern.

    Raises `EvaluationError` when the pattern is not valid.
    """
    expression = compile("searched.matches(pattern)", {"searched": "string", "pattern": "string"})
    try:
        return expression.evaluate({"searched": string, "pattern": pattern}) is True
    except EvaluationError as error:
        raise EvaluationError(pattern, error.message.removeprefix("invalid regular expression: ")) from None


def text(value: Any) -> str:
    """How a value reads inside a longer string: JSON for maps, lists, booleans and null."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _article(type_: str) -> str:
    return {"int": "an int", "list": "a list", "map": "a map", "null": "null"}.get(type_, f"a {type_}")
