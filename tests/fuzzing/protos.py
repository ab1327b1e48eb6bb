"""Proto messages of any type with nonsense in them, in form for the wire.

Ids and ranks come from a few that are alike everywhere, so that messages meet: most nonsense is only reached by
a message that is about something.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

MAX_DEPTH = 4

NAMES = ("", "r0", "r1", "r-1", "r-2", "w0", "w1", "gw", "b1", "k", "127.0.0.1:1")
_TEXTS = st.sampled_from((*NAMES, "\x00", "x" * 300, "\N{SNOWMAN}" * 90, "a\nb", "Ā" * 300))
_FLOATS = st.sampled_from(
    (0.0, 0.01, 1.0, -1.0, -0.0, 1e-320, 1e9, 1e308, float("inf"), -float("inf"), float("nan"))
)
_LENGTHS = st.sampled_from((0, 1, 1, 2, 2, 2, 3, 9))

_F = FieldDescriptor
_UNSIGNED = {_F.TYPE_UINT32: 32, _F.TYPE_FIXED32: 32, _F.TYPE_UINT64: 64, _F.TYPE_FIXED64: 64}
_SIGNED = {
    _F.TYPE_INT32: 32,
    _F.TYPE_SINT32: 32,
    _F.TYPE_SFIXED32: 32,
    _F.TYPE_INT64: 64,
    _F.TYPE_SINT64: 64,
    _F.TYPE_SFIXED64: 64,
}


def wire(kind: type[Message], **fixed: Any) -> st.SearchStrategy[bytes]:
    """Messages of a type, serialized; some are damaged on the way. `fixed` fields are as given."""
    return st.builds(_damaged, _messages(kind.DESCRIPTOR, 0), _damages, st.just(fixed))


def around(*sound: Message) -> st.SearchStrategy[bytes]:
    """Messages that are nearly one of these: a few of their fields are nonsense, wherever they are."""
    return st.builds(_damaged, st.sampled_from(sound).flatmap(_nearly), _damages, st.just({}))


_damages = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.tuples(
        st.sampled_from(("cut", "flip", "double", "insert")), st.integers(0, 1 << 16), st.integers(0, 255)
    ),
)


def _damaged(message: Message, damage: tuple[str, int, int] | None, fixed: dict[str, Any]) -> bytes:
    for name, value in fixed.items():
        setattr(message, name, value)
    data = message.SerializeToString()
    if damage is None or not data:
        return data
    what, where, byte = damage
    at = where % len(data)
    match what:
        case "cut":
            return data[:at]
        case "flip":
            return data[:at] + bytes([data[at] ^ (byte or 1)]) + data[at + 1 :]
        case "double":
            return data + data[at:]
        case _:
            return data[:at] + bytes([byte]) + data[at:]


@st.composite
def _messages(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> Message:
    message = GetMessageClass(descriptor)()
    chosen = {
        oneof.name: draw(st.sampled_from([None, *oneof.fields]))
        for oneof in descriptor.oneofs
        if len(oneof.fields) > 1
    }
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and oneof.name in chosen:
            if chosen[oneof.name] is field:
                _set(draw, message, field, depth)
        elif draw(st.integers(0, 9)) < 8:
            _set(draw, message, field, depth)
    return message


@st.composite
def _nearly(draw: st.DrawFn, sound: Message) -> Message:
    message = type(sound)()
    message.CopyFrom(sound)
    for field in sound.DESCRIPTOR.fields:
        if draw(st.integers(0, 11)) == 0:
            message.ClearField(field.name)
            _set(draw, message, field, 1)
        elif field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        elif field.is_repeated:
            for element in getattr(message, field.name):
                element.CopyFrom(draw(_nearly(element)))
        elif sound.HasField(field.name):
            getattr(message, field.name).CopyFrom(draw(_nearly(getattr(sound, field.name))))
    return message


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    if field.is_repeated:
        into = getattr(message, field.name)
        for _ in range(draw(_LENGTHS) if field.message_type is None or depth < MAX_DEPTH else 0):
            if field.message_type is None:
                into.append(draw(_values(field)))
            else:
                into.add().CopyFrom(draw(_messages(field.message_type, depth + 1)))
    elif field.message_type is None:
        setattr(message, field.name, draw(_values(field)))
    elif depth < MAX_DEPTH:
        getattr(message, field.name).CopyFrom(draw(_messages(field.message_type, depth + 1)))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.type
    if kind in _UNSIGNED:
        return _unsigned(_UNSIGNED[kind])
    if kind in _SIGNED:
        top = 1 << (_SIGNED[kind] - 1)
        return st.sampled_from((0, 1, -1, 100, -100, top - 1, -top))
    match kind:
        case _F.TYPE_DOUBLE:
            return _FLOATS
        case _F.TYPE_FLOAT:
            return st.sampled_from((0.0, 0.5, -1.0, 3e38, float("inf"), -float("inf"), float("nan")))
        case _F.TYPE_BOOL:
            return st.booleans()
        case _F.TYPE_STRING:
            return _TEXTS
        case _F.TYPE_BYTES:
            return st.sampled_from((b"", b"k", b"\xff" * 16, b"\x00" * 65))
        case _F.TYPE_ENUM:
            known = tuple(value.number for value in field.enum_type.values)
            return st.sampled_from((*known, *known, -1, 99, (1 << 31) - 1))
    raise AssertionError(f"{field.full_name}: a type that is not known here: {kind}")


def _unsigned(bits: int) -> st.SearchStrategy[int]:
    top = (1 << bits) - 1
    usual = st.sampled_from((0, 1, 1, 2, 2, 3, 64, 100, 1000))
    edges = st.sampled_from((4096, 1 << 26, (1 << 31) - 1, 1 << 31, top - 1, top, (1 << (bits - 1)) - 1))
    return st.one_of(usual, usual, edges)
