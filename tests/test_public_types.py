"""``Any`` in a public signature is an exception with a reason: where a type can be said, it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from tests.import_graph import CORE, modules, packages

INTERNAL = {"anybroker.cli", "anybroker.engine", "anybroker.handlers"}
"""Rooms that users do not import from."""

CLIENT = "an object of the broker's client library, which the core does not know"
TOKEN = "the core's own, of a type that differs between its uses"
TOML = "values as a settings file, a URL or the environment has them, before pydantic has checked them"
WIRE = "values as a transport's client gives them, of any type"
SDK = "classes of the CloudEvents SDK, known by their shape"
PAYLOAD = "a payload of the user's: any type that pydantic takes"
ALLOWED = {
    "adapter.Adapter.native": CLIENT,
    "adapter.Inbound(raw)": CLIENT,
    "adapter.Inbound(token)": TOKEN,
    "adapter.Outbound(token)": TOKEN,
    "adapter.Peeked.raw": CLIENT,
    "cloudevents.attributes.check_attributes(attributes)": WIRE,
    "cloudevents.attributes.takes(memory)": "a dict with values of any type",
    "cloudevents.declared.KeyOf": PAYLOAD,
    "cloudevents.declared.event_type(key)": PAYLOAD,
    "cloudevents.event.Event.get_attributes": SDK,
    "cloudevents.event.Event.get_data": PAYLOAD,
    "cloudevents.event.Event.to_cloudevent": SDK,
    "cloudevents.event.Event.to_cloudevent(factory)": SDK,
    "cloudevents.headers.HeaderBinding.parse(headers)": WIRE,
    "cloudevents.headers.HeaderBinding.parse_usual(headers)": WIRE,
    "cloudevents.payload.decode": PAYLOAD,
    "cloudevents.payload.encode_model(model)": PAYLOAD,
    "cloudevents.sdk.installed_factory": SDK,
    "cloudevents.sdk.make_with": SDK,
    "cloudevents.sdk.make_with(data)": PAYLOAD,
    "cloudevents.sdk.make_with(factory)": SDK,
    "cloudevents.sdk.make_with(for_sdk)": SDK,
    "cloudevents.sdk.parts_of": SDK,
    "cloudevents.text_body.parse_text(attributes)": WIRE,
    "codec.pydantic_json.validator": PAYLOAD,
    "config.file.ConfigFile(values)": TOML,
    "config.file.ConfigFile.merged(elsewhere)": TOML,
    "config.file.ConfigFile.merged(values)": TOML,
    "config.file.FileSource.__call__": TOML,
    "config.registry.adapter_class": "a class that an entry point names; a third party's is not checked statically",
    "config.registry.load_entry": "what an entry point names: it is checked when it is used",
    "config.settings.BusSettings.adapters": TOML,
    "config.settings.validate(values)": TOML,
    "delivery.Delivery.raw": CLIENT,
    "idempotency.sqlite.SqliteStore.call": TOKEN,
    "idempotency.sqlite.SqliteTransaction.execute": "values of a row, as sqlite3 types them",
    "kit.not_before.headers_with_not_before": "header values as the client libraries type them",
    "middleware.layer.attached": "what decorators attached; arrange() checks each",
    "testing.AdapterWrapper.native": CLIENT,
    "testing.Fault.when": "takes an Outbound, an Inbound, a Settlement or None: drop(), delay(), … say which",
}


def has_any(node: ast.AST | None) -> bool:
    """Whether an annotation says ``Any``. ``Event[Any]``, an event whose payload is not known, does not count."""
    if node is None or (isinstance(node, ast.Subscript) and ast.unparse(node) == "Event[Any]"):
        return False
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return has_any(ast.parse(node.value, mode="eval"))
        except SyntaxError:
            return False  # a text, such as Literal["not an annotation"]
    return (isinstance(node, ast.Name) and node.id == "Any") or any(map(has_any, ast.iter_child_nodes(node)))


def in_function(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    arguments = function.args
    each = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    for argument in each:
        if argument is not None and has_any(argument.annotation):
            yield f"{name}({argument.arg})"
    if has_any(function.returns):
        yield name


def in_body(where: str, body: list[ast.stmt], public: set[str] | None) -> Iterator[str]:
    """Signatures, attributes and type aliases with ``Any``. Of an overloaded function the overloads count, and not the
    function itself, whose annotations no caller sees."""
    overloaded: set[str] = set()
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                is_overload = any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
                if is_overload:
                    overloaded.add(name)
                if is_public(name, public) and (is_overload or name not in overloaded):
                    yield from in_function(where if name == "__init__" else f"{where}.{name}", node)
            case ast.ClassDef(name=name) if is_public(name, public):
                yield from in_body(f"{where}.{name}", node.body, None)
            case ast.AnnAssign(target=ast.Name(id=name)) if is_public(name, public):
                if has_any(node.annotation) or (public is not None and has_any(node.value)):
                    yield f"{where}.{name}"
            case ast.Assign(targets=[ast.Name(id=name)]) if public is not None and name in public:
                if has_any(node.value):
                    yield f"{where}.{name}"
            case _:
                pass


def is_public(name: str, public: set[str] | None) -> bool:
    """``public``: what ``__all__`` lists; None: inside a class."""
    if public is None:
        return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))
    return name in public


def names_of(tree: ast.Module) -> set[str]:
    """What ``__all__`` lists."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def public_signatures_with_any() -> set[str]:
    found: set[str] = set()
    for module, path in modules(CORE, packages()[CORE]).items():
        parts = module.split(".")
        if ".".join(parts[:2]) not in INTERNAL and not any(part.startswith("_") for part in parts):
            tree = ast.parse(path.read_bytes())
            found.update(in_body(module.removeprefix(f"{CORE}."), tree.body, names_of(tree)))
    return found


def test_any_is_said_only_where_no_type_can_be() -> None:
    found = public_signatures_with_any()
    assert found - ALLOWED.keys() == set(), "say the type, or the reason in ALLOWED"
    assert ALLOWED.keys() - found == set(), "these are gone: take them out of ALLOWED"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a: Any, *b: 'list[Any]', c: int) -> dict[str, Any]: ...", ["m.f(a)", "m.f(b)", "m.f"]),
        ("def f(event: Event[Any]) -> Event[Any] | None: ...", []),
        (
            "@overload\ndef f(a: int) -> int: ...\n@overload\ndef f(a: str) -> Any: ...\ndef f(a: Any) -> Any: ...",
            ["m.f"],
        ),
        (
            "class C:\n    a: Any\n    _b: Any\n    def __init__(self, a: Any): ...\n    def _g(a: Any): ...",
            ["m.C.a", "m.C(a)"],
        ),
        ("A: TypeAlias = list[Any]\nB = Callable[..., Any]\nD = 3", ["m.A", "m.B"]),
        ("def private(a: Any) -> Any: ...", []),
    ],
)
def test_what_is_found(source: str, found: list[str]) -> None:
    assert list(in_body("m", ast.parse(source).body, {"f", "C", "A", "B", "D"})) == found
