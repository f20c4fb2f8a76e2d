"""Named tuples as generators of LLVM code see them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from numba import types
from numba.core import cgutils


def fields(context: Any, builder: Any, kind: Any, value: Any) -> SimpleNamespace:
    """The fields of a named tuple by name.

    Of an array the address of its first element, of a number a whole one of 64 bits, of a named tuple its
    fields.
    """
    values = cgutils.unpack_tuple(builder, value, len(kind.types))
    made = SimpleNamespace()
    for name, of, field in zip(kind.fields, kind.types, values, strict=True):
        if isinstance(of, types.Array):
            field = cgutils.create_struct_proxy(of)(context, builder, value=field).data
        elif isinstance(of, types.BaseNamedTuple):
            field = fields(context, builder, of, field)
        else:
            field = context.cast(builder, field, of, types.int64)
        setattr(made, name, field)
    return made
