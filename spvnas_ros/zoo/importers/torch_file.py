"""The reader of torch's `.pth` files, which does without torch's own unpickler and runs nothing that they hold.

Tensors, containers and numpy scalars are rebuilt; everything else stays an `Inert`. Both file formats are read: the zip
archive of torch 1.6 and later, and the plain one before it (a pickle per part, then the storages one after another).
"""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from spvnas_ros.zoo.checkpoint import CheckpointError
from spvnas_ros.zoo.importers.inert_pickle import Global, Inert, Machine, Rebuild, key_of

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIMENSIONS = 32

_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_STORAGE_DTYPES = {f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()} | {
    "torch.storage.UntypedStorage": torch.uint8
}


def read_torch_file(path: Path) -> Any:
    """Returns the object saved in a `.pth` file.

    It consists of dictionaries, lists, tensors (on the CPU), numpy scalars, and `Inert` values.

    Raises CheckpointError for a file that is missing, cut short, damaged or not written by `torch.save`.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            if head.startswith(b"PK"):
                return _read_zip(file)
            if head.startswith(b"\x80"):
                return _read_legacy(file)
        raise CheckpointError(f"expected a file written by torch.save, found {_describe(head)}")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the download led to an error page"
    if head[257:262] == b"ustar" or head.startswith(b"\x1f\x8b"):
        return "a tar or gzip archive; unpack it first"
    if head[8:9] == b"{":
        return "what looks like a .safetensors file, which needs no import"
    return f"a file that begins with {head[:8]!r}"


@dataclass(frozen=True)
class _Storage:
    """A run of numbers that tensors are views of."""

    values: torch.Tensor


def _read_zip(file: IO[bytes]) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            roots = [name[: -len("data.pkl")] for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if len(roots) != 1:
                raise CheckpointError("it is a zip archive, but not one of torch.save: it has no data.pkl")
            return _Zip(archive, roots[0]).load()
    except (zipfile.BadZipFile, EOFError, struct.error, zlib.error) as error:
        raise CheckpointError(f"the file is cut short or damaged ({error}); get it again") from error
    except (ValueError, LookupError, NotImplementedError, RuntimeError, ArithmeticError, MemoryError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the zip archive is damaged ({error!r:.200}); get it again") from error


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive = archive
        self._root = root
        self._bytes = cache(self._load_bytes)

    def load(self) -> Any:
        if f"{self._root}byteorder" in self._archive.namelist() and self._read("byteorder") != b"little":
            raise CheckpointError("it was written on a big-endian machine, which is not supported")
        return Machine(_REBUILD, _CONSTANTS, self._storage).run(io.BytesIO(self._read("data.pkl")))

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            entry = self._archive.getinfo(self._root + name)
        except KeyError:
            raise CheckpointError(f"the archive has no part {name!r}; it is damaged, get it again") from None
        # The archive's directory may be damaged or hostile, and memory of the size that it claims would be allocated
        # before anything is read.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(f"part {name!r} is compressed; torch.save never does that")
        if entry.file_size > self._archive.start_dir:
            raise CheckpointError(f"part {name!r} claims {entry.file_size} bytes, more than the file has")
        return entry

    def _read(self, name: str) -> bytes:
        return self._archive.read(self._entry(name))

    def _load_bytes(self, key: str) -> torch.Tensor:
        return _bytes_tensor(self._read(f"data/{key}"))

    def _storage(self, identifier: Any) -> Any:
        reference = _StorageId.parse(identifier)
        if reference is None:
            return Inert("a persistent object", identifier)
        return reference.of(self._bytes(reference.key))


def _read_legacy(file: IO[bytes]) -> Any:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
        return _Legacy(source).load()


class _Legacy:
    """The file format before torch 1.6: magic number, protocol, system facts, the object, storage keys, storages."""

    def __init__(self, source: mmap.mmap) -> None:
        self._source = source
        self._references: dict[str, _StorageId] = {}
        self._storages: dict[str, _Storage] = {}

    def load(self) -> Any:
        self._check_head()
        start = self._source.tell()
        # The storages lie behind the object that refers to them, and their types are known only from that object.
        # The pickle is therefore read twice, first for the references.
        self._run(self._note)
        keys = self._run(self._note)
        self._read_storages(keys)
        self._source.seek(start)
        return self._run(self._storage)

    def _run(self, persistent: Callable[[Any], Any]) -> Any:
        return Machine(_REBUILD, _CONSTANTS, persistent).run(cast("IO[bytes]", self._source))

    def _check_head(self) -> None:
        try:
            magic = self._run(self._note)
        except CheckpointError:
            magic = None
        if magic != _LEGACY_MAGIC:
            raise CheckpointError("expected a file written by torch.save, found a pickle or another binary file")
        protocol, system = self._run(self._note), self._run(self._note)
        if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or not system.get("little_endian"):
            raise CheckpointError(f"unsupported torch file: protocol {protocol!r:.50}, or not little-endian")

    def _note(self, identifier: Any) -> Any:
        if reference := _StorageId.parse(identifier):
            self._references[reference.key] = reference
        return Inert("a storage")

    def _read_storages(self, keys: Any) -> None:
        if not isinstance(keys, list) or {key_of(key) for key in keys} != set(self._references):
            raise CheckpointError("the file's list of storages does not match its tensors; it is damaged, get it again")
        for key in keys:
            reference = self._references[key]
            count = int.from_bytes(self._read(8), "little")
            if count != reference.count:
                raise CheckpointError(f"storage {key!r:.50} has {count} items, its tensors expect {reference.count}")
            self._storages[key] = reference.of(_bytes_tensor(self._read(count * reference.dtype.itemsize)))

    def _read(self, count: int) -> bytes:
        left = len(self._source) - self._source.tell()
        if count > left:
            raise CheckpointError(
                f"the file is cut short: {count} bytes of a tensor expected, {left} left; get it again"
            )
        return self._source.read(count)

    def _storage(self, identifier: Any) -> Any:
        reference = _StorageId.parse(identifier)
        if reference is None:
            return Inert("a persistent object", identifier)
        storage = self._storages[reference.key]
        if reference.view is None:
            return storage
        offset, count = reference.view
        if offset + count > len(storage.values):
            raise CheckpointError(f"a view of storage {reference.key!r:.50} reaches behind its end")
        return _Storage(storage.values[offset : offset + count])


@dataclass(frozen=True)
class _StorageId:
    """A persistent id: it names a storage, its type and its length. Legacy files may name a part of a storage."""

    key: str
    dtype: torch.dtype
    count: int
    view: tuple[int, int] | None = None

    @classmethod
    def parse(cls, identifier: Any) -> _StorageId | None:
        """Returns the persistent id, None for an id that is not a storage's."""
        if not (isinstance(identifier, tuple) and len(identifier) in (5, 6) and identifier[0] == "storage"):
            return None
        _, kind, key, _, count, *rest = identifier
        dtype = _STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) else None
        view = rest[0][1:] if rest and isinstance(rest[0], tuple) and len(rest[0]) == 3 else None
        if dtype is None or not isinstance(key, str) or not _sizes((count, *(view or ()))):
            raise CheckpointError(f"a tensor's storage is of a kind that is not supported: {kind!r:.100}")
        return cls(key, dtype, count, view)

    def of(self, raw: torch.Tensor) -> _Storage:
        """Returns the storage in its bytes, uint8 `[B]`."""
        size = self.count * self.dtype.itemsize
        if size > len(raw):
            raise CheckpointError(f"storage {self.key!r:.50} has {len(raw)} bytes, its tensors expect {size}")
        return _Storage(raw[:size].view(self.dtype))


def _bytes_tensor(raw: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)


def _sizes(values: Any) -> bool:
    """Returns whether these are all whole numbers from 0 that fit into 62 bits."""
    return isinstance(values, (tuple, list)) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    """Returns a view into a storage, after checking that the view stays inside."""
    if not isinstance(storage, _Storage):
        return Inert("a tensor without a storage", (storage, offset, size, stride))
    shape_is_sound = _sizes((offset,)) and _sizes(size) and _sizes(stride) and len(size) == len(stride)
    if not shape_is_sound or len(size) > _MAX_DIMENSIONS or math.prod(size) >= 1 << 62:
        raise CheckpointError("a tensor has a shape that no tensor can have; the file is damaged, get it again")
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else offset
    if end > len(storage.values):
        raise CheckpointError(
            f"a tensor of shape {list(size)} reaches to item {end} of a storage of {len(storage.values)}; "
            "the file is damaged, get it again"
        )
    return storage.values.as_strided(tuple(size), tuple(stride), offset)


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    """Returns a tensor from the third form, which has an untyped storage and the type beside it."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        return Inert("a tensor without a storage", (storage, offset, size, stride))
    raw = storage.values.view(torch.uint8)
    return _tensor(_Storage(raw[: len(raw) // dtype.itemsize * dtype.itemsize].view(dtype)), offset, size, stride)


def _typed(function: Any, _: Any, args: Any, *__: Any) -> Any:
    """Returns a tensor of a subclass of Tensor as a plain tensor."""
    rebuild = _REBUILD.get(function.name) if isinstance(function, Global) else None
    if rebuild not in (_tensor, _tensor_of_dtype) or not isinstance(args, tuple):
        return Inert("a tensor of a type of its own", args)
    return rebuild(*args)


def _dictionary(items: Any = ()) -> Any:
    if not isinstance(items, (list, tuple)):
        return Inert("a dictionary", items)
    return {key_of(key): value for key, value in items}


def _members(make: Callable[[Any], Any]) -> Rebuild:
    def rebuild(items: Any = ()) -> Any:
        return make(key_of(i) for i in items) if isinstance(items, (list, tuple, set)) else Inert("a set", items)

    return rebuild


def _size(items: Any = ()) -> Any:
    return tuple(items) if _sizes(items) else Inert("torch.Size", items)


def _encode(text: Any, encoding: Any = "utf-8") -> Any:
    """Returns bytes that Python 3 wrote for Python 2, as a text and its encoding."""
    known = isinstance(text, str) and encoding in ("latin1", "latin-1", "utf-8")
    return text.encode(encoding) if known else Inert("_codecs.encode", (text, encoding))


def _numpy_scalar(dtype: Any, raw: Any = None) -> Any:
    """Returns a number of numpy. `dtype` is the inert call of numpy.dtype, and its state holds the byte order."""
    code = dtype.args[0] if isinstance(dtype, Inert) and isinstance(dtype.args, tuple) and dtype.args else None
    if not (isinstance(code, str) and re.fullmatch(r"[biuf][1248]", code) and isinstance(raw, bytes)):
        return Inert("a numpy scalar", (dtype, raw))
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    return np.frombuffer(raw, np.dtype(f"{'>' if order == '>' else '<'}{code}"), 1)[0]


_CONSTANTS: Mapping[str, Any] = {f"torch.{str(dtype)[6:]}": dtype for dtype in _DTYPES.values()}

_REBUILD: Mapping[str, Rebuild] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Size": _size,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": lambda _=None, items=(): _dictionary(items),
    "builtins.set": _members(set),
    "builtins.frozenset": _members(frozenset),
    "__builtin__.set": _members(set),
    "__builtin__.frozenset": _members(frozenset),
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
