"""A reader of pickles that never runs the functions and classes that they name.

`pickle.Unpickler` imports and calls whatever a file asks for. Even with `find_class` restricted, its memo grows to any
index the file names, and BUILD writes into live objects. Here the opcodes (parsed by `pickletools`) act on plain
containers only. A name becomes a `Global`. A call of a name that the caller did not provide becomes an `Inert`. Nothing
that a file brought along is imported, accessed or called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pickletools import genops
from typing import IO, Any

from spvnas_ros.zoo.checkpoint import CheckpointError


@dataclass(frozen=True)
class Global:
    """The name of a class or function, `module.qualname`. Nothing is imported."""

    name: str


@dataclass(eq=False)
class Inert:
    """The placeholder for an object of a class, or a call of a function, that is not rebuilt.

    name:  the class or function, `module.qualname`
    args:  the arguments of the call
    state: the argument of the object's `__setstate__`
    """

    name: str
    args: Any = field(default=(), repr=False)
    state: Any = field(default=None, repr=False)


_MAX_COPIED = 1 << 26
"""The number of items and characters that all rebuilt calls together may be given. Real checkpoints stay far below."""

Rebuild = Callable[..., Any]


def key_of(value: Any) -> Any:
    """Returns the value as a dictionary key or set member.

    Scalars and short tuples of them stay as they are; other values become `Inert`. Hashing deeper structures is not
    bounded: a few bytes of pickle nest a tuple in itself 2**50 times.
    """
    scalars = (str, bytes, int, float, type(None), Global, Inert)
    flat = isinstance(value, tuple) and len(value) <= 8 and all(isinstance(item, scalars) for item in value)
    return value if flat or isinstance(value, scalars) else Inert(f"a {type(value).__name__} as key")


class Machine:
    """A machine that runs one pickle.

    rebuild:    the function that gives the result of a call, by the called name; it gets the pickle's arguments as they
                are, so it must check them, and may raise ValueError, TypeError or CheckpointError
    constants:  the value that a name itself stands for, by name
    persistent: turns a persistent id (in torch files: a storage) into a value
    """

    def __init__(
        self, rebuild: Mapping[str, Rebuild], constants: Mapping[str, Any], persistent: Callable[[Any], Any]
    ) -> None:
        self._rebuild = rebuild
        self._constants = constants
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self, source: IO[bytes]) -> Any:
        """Returns the pickled object and leaves `source` behind the pickle's end.

        Raises CheckpointError for a malformed pickle.
        """
        position = 0
        try:
            for opcode, argument, offset in genops(source):
                position = offset or 0
                if opcode.name == "STOP":
                    return self._stack.pop()
                _HANDLERS[opcode.name](self, argument)
        except CheckpointError:
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError, RuntimeError) as error:
            raise CheckpointError(f"malformed pickle near byte {position}: {error!r:.200}") from error
        raise CheckpointError("malformed pickle: it has no end")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def pop_mark(self) -> list[Any]:
        """Removes the last mark and the values above it, and returns these values."""
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def drop(self, _: Any) -> None:
        self.pop_mark()

    def ignore(self, _: Any) -> None:
        """Does nothing: the value is a hint for faster readers."""

    def duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def pack(self, count: int) -> None:
        """Replaces the topmost `count` values by a tuple of them."""
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise ValueError(f"a tuple of {count} asked for, {len(items)} values there")
        self._stack[-count:] = [items]

    def extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(key_of(item) for item in items)
        elif not isinstance(target, Inert):
            raise TypeError(f"items added to a {type(target).__name__}")

    def update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(_pairs(items))
        elif not isinstance(target, Inert):
            raise TypeError(f"keys set on a {type(target).__name__}")

    def name(self, module: Any, qualname: Any) -> Any:
        if not (isinstance(module, str) and isinstance(qualname, str)):
            raise TypeError("a global whose name is not text")
        full = f"{module}.{qualname}"
        return self._constants.get(full, Global(full))

    def call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global):
            return Inert(f"a call of a {type(function).__name__}", args)
        rebuild = self._rebuild.get(function.name)
        if rebuild is None or not isinstance(args, tuple):
            return Inert(function.name, args)
        self._copied += sum(len(item) for item in args if isinstance(item, (str, bytes, list, tuple, set, dict)))
        if self._copied > _MAX_COPIED:
            raise CheckpointError("the pickle copies its own contents over and over; it is no checkpoint")
        return rebuild(*args)

    def stack_global(self, _: Any) -> None:
        qualname, module = self._stack.pop(), self._stack.pop()
        self.push(self.name(module, qualname))

    def reduce(self, _: Any) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self.push(self.call(function, args))

    def new_object_ex(self, _: Any) -> None:
        keywords, args, cls = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self.push(Inert(cls.name if isinstance(cls, Global) else type(cls).__name__, (args, keywords)))

    def instance(self, name: str) -> None:
        self.push(self.call(self.name(*name.split(" ", 1)), tuple(self.pop_mark())))

    def old_object(self, _: Any) -> None:
        cls, *args = self.pop_mark()
        self.push(self.call(cls, tuple(args)))

    def build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Inert):
            target.state = state

    def persistent(self, identifier: Any) -> None:
        self.push(self._persistent(identifier))

    def take(self) -> Any:
        return self._stack.pop()


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return {key_of(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _unsupported(_: Machine, argument: Any) -> None:
    raise ValueError(f"an opcode that refers outside of the file ({argument})")


Handler = Callable[[Machine, Any], None]

_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        lambda machine, value: machine.push(value),
    ),
    **dict.fromkeys(("PROTO", "FRAME"), Machine.ignore),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, code: machine.push(Global(f"copyreg extension {code}"))),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Machine.reduce),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _unsupported),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.drop,
    "DUP": Machine.duplicate,
    "MEMOIZE": Machine.memoize,
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "DICT": lambda machine, _: machine.push(_pairs(machine.pop_mark())),
    "FROZENSET": lambda machine, _: machine.push(frozenset(key_of(item) for item in machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
    "APPEND": lambda machine, _: machine.extend([machine.take()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.take(), machine.take()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    "GLOBAL": lambda machine, name: machine.push(machine.name(*name.split(" ", 1))),
    "STACK_GLOBAL": Machine.stack_global,
    "INST": Machine.instance,
    "OBJ": Machine.old_object,
    "NEWOBJ_EX": Machine.new_object_ex,
    "BUILD": Machine.build,
    "PERSID": Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.take()),
}
