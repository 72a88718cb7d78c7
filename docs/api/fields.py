"""For the API pages: a setting's help text, which `field` is given, is its docstring."""

import ast
from typing import Any

import griffe


class Fields(griffe.Extension):
    """Reads `name: type = field(default, "help", …)` as it stands, without importing anything."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        call = attr.value
        if (isinstance(call, griffe.ExprCall) and str(call.function) == "field"
                and len(call.arguments) > 1 and not attr.docstring):
            text = _literal(str(call.arguments[1]))
            allowed = [str(each) for each in call.arguments[2:]]
            attr.docstring = griffe.Docstring(
                f"{text} ({', '.join(allowed)})" if allowed else text, parent=attr)
            attr.value = call.arguments[0]


def _literal(source: str) -> str:
    """A string as it reads; what it has in braces is put in at run time."""
    tree = ast.parse(source, mode="eval").body
    if isinstance(tree, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…"
                       for part in tree.values)
    return str(ast.literal_eval(source))
