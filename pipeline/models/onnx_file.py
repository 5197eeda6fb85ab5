"""Look through an ONNX file for what reaches out of it: tensors in other files, operators of other libraries.

The file is a protocol buffer; only the few fields that matter are followed, without the library of ONNX.

References
----------
onnx.proto of ONNX 1.17 (numbers of fields); protobuf encoding (protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Iterator

from pipeline.models.errors import refused

_DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft"})
_DEPTH = 32

_MODEL = {7: "graph", 25: "function"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_FUNCTION = {7: "node"}
_NODE = {5: "attribute"}
_ATTRIBUTE = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE = {1: "tensor", 2: "tensor"}
_FIELDS = {
    "model": _MODEL, "graph": _GRAPH, "function": _FUNCTION, "node": _NODE, "attribute": _ATTRIBUTE, "sparse": _SPARSE,
    "tensor": {},
}  # fmt: skip
_NODE_DOMAIN, _LOCATION, _EXTERNAL_DATA = 7, 14, 13

Value = int | memoryview


def check(data: bytes, name: str) -> None:
    """Refuse an ONNX file that names other files or operators of other libraries, or is none.

    Raises
    ------
    ModelRefused
        With what it names.
    """
    try:
        found = _message(memoryview(data), "model", name, 0)
    except (ValueError, IndexError) as error:
        raise refused(name, "is no ONNX file") from error
    if 7 not in found:
        raise refused(name, "is no ONNX file: it has no graph")


def _message(data: memoryview, kind: str, name: str, depth: int) -> set[int]:
    """Check one message and those within; return the numbers of its fields."""
    if depth > _DEPTH:
        raise refused(name, "is nested too deeply")
    seen = set()
    for number, value in _fields(data):
        seen.add(number)
        if kind == "tensor" and ((number == _LOCATION and value != 0) or number == _EXTERNAL_DATA):
            raise refused(name, "keeps tensors in other files; save it with all its data inside")
        if kind == "node" and number == _NODE_DOMAIN and bytes(_block(value)) not in _DOMAINS:
            raise refused(name, "uses operators of another library")
        inner = _FIELDS[kind].get(number)
        if inner is not None:
            _message(_block(value), inner, name, depth + 1)
    return seen


def _block(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")  # noqa: TRY004 - what is malformed is one error
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield number and value of every field."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key >> 32:
            raise ValueError("a key of more than 32 bits")  # others read its lower bits, and another field
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("ends too early")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
