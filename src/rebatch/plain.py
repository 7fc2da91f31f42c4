"""Structs as plain data without the fields that stand at their default, by equality: what files and hashes hold."""

from functools import cache
from typing import Any

import msgspec


def plain(value: Any) -> Any:
    """Nested builtins; a struct becomes its tag and the fields that differ from their default.

    msgspec's own `omit_defaults` compares by identity, so an explicit 0.0 would be kept and change a hash.

    >>> from rebatch.recipe import Sgd
    >>> plain(Sgd(lr=0.1, momentum=float("0")))
    {'type': 'sgd', 'lr': 0.1}
    """
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        fields = [field.name for field in _declared(type(value)) if _differs(field, value)]
        return {**tag, **{name: plain(getattr(value, name)) for name in fields}}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


@cache
def _declared(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _differs(field: msgspec.structs.FieldInfo, owner: msgspec.Struct) -> bool:
    value = getattr(owner, field.name)
    if field.default is not msgspec.NODEFAULT:
        return bool(value != field.default)
    return field.default_factory is msgspec.NODEFAULT or bool(value != field.default_factory())
