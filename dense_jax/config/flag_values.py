"""The values of settings on the command line, as tyro reads them."""

import contextlib
import dataclasses
import enum
import io
import typing
from typing import Any

import tyro

STYLE = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)


def read(type_: Any, texts: list[str]) -> Any:
    """Read `texts` as a value of the type, by tyro.

    Raises:
        ValueError: the texts do not fit the type.
    """
    holder = dataclasses.make_dataclass("Flag", [("value", tyro.conf.UseAppendAction[type_])])
    arguments = [f"--value={text}" for text in texts]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # our messages stand in for tyro's
            return tyro.cli(holder, args=arguments, registry=registry(), config=STYLE, add_help=False).value
    except SystemExit:
        raise ValueError(texts) from None


def registry() -> tyro.constructors.ConstructorRegistry:
    """Rules of types that are written otherwise than in tyro: booleans are true or false."""
    found = tyro.constructors.ConstructorRegistry()

    @found.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type is not bool:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="{true,false}",
            instance_from_str=lambda texts: _boolean(texts[0]),
            is_instance=lambda value: isinstance(value, bool),
            str_from_instance=lambda value: [str(value).lower()],
        )

    return found


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def kind(type_: Any) -> str:
    """Describe the values of a type.

    >>> kind(int)
    'a whole number'
    """
    if isinstance(type_, type) and issubclass(type_, enum.Enum):
        return "one of " + ", ".join(member.value for member in type_)
    if typing.get_origin(type_) is tuple:
        return f"{kind(typing.get_args(type_)[0])}; give the flag once for each value"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return plain.get(type_, f"a {type_}")
