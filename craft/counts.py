"""How many numbers a method trains besides the head, in closed form."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PretrainedConfig

from craft.errors import InputError
from craft.targets import peft_config_class
from craft.tuners.bottleneck import skipped_layers
from craft.tuners.targets import default_targets

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.Eq: operator.eq,
}
FUNCTIONS: dict[str, Callable[..., int]] = {"min": min, "max": max}


def closed_form(expression: str, **values: int | str) -> int:
    """The value of a formula of integers, names, + - * // **, min, max and `a if x == 'y' else b`.

    InputError names what is unknown or not of this kind."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | str() as constant):
                return constant
            case ast.Name(id=name) if name in values:
                return values[name]
            case ast.Name(id=name):
                known = ", ".join(sorted(values))
                raise InputError(f"{name} in the closed form {expression!r} is not one of {known}")
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.Compare(left, [op], [right]) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.IfExp(test, body, orelse):
                return value(body if value(test) else orelse)
            case ast.Call(ast.Name(id=name), arguments, []) if name in FUNCTIONS:
                return FUNCTIONS[name](*map(value, arguments))
        raise InputError(f"{ast.unparse(node)!r} has no place in the closed form {expression!r}")

    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise InputError(f"the closed form {expression!r} is not an expression") from error
    return value(tree.body)


def variables(
    model_config: PretrainedConfig, peft_fields: Mapping[str, Any]
) -> dict[str, int | str]:
    """What a closed form may name.

    L layers, d width, f feed-forward width, V vocabulary, P positions, T token types, pooler (1
    where the backbone has one, as BERT), n adapted projections a layer, r1 to r3 the `ranks`, and
    every integer or string field of the method."""
    given = {k: v for k, v in peft_fields.items() if isinstance(v, int | str)}
    depth = model_config.num_hidden_layers
    found = {
        **given,
        "L": depth,
        "d": model_config.hidden_size,
        "V": model_config.vocab_size,
        "P": getattr(model_config, "max_position_embeddings", 0),
        "T": getattr(model_config, "type_vocab_size", 0),
        "pooler": int(model_config.model_type == "bert"),
        "skip_layers": skipped_layers(peft_fields.get("skip_layers", 0), depth),
    }
    for name in ("intermediate_size", "hidden_dim"):  # BERT, DistilBERT
        if hasattr(model_config, name):
            found["f"] = getattr(model_config, name)
    targets = peft_fields.get("target_modules")
    if targets is None:
        targets = default_targets(peft_config_class(peft_fields)(), model_config.model_type)
    if targets is not None and not isinstance(targets, str):
        found["n"] = len(targets)
    found.update({f"r{i}": rank for i, rank in enumerate(peft_fields.get("ranks", ()), 1)})
    return found


def expected_parameters(method: Mapping[str, Any], model_config: PretrainedConfig) -> int:
    """What a method of `configs/method` trains in a model besides its head, by its own formula."""
    return closed_form(method["facts"]["parameters"], **variables(model_config, method["peft"]))
