"""Masking in WebSocket frames as a property: cut a secret over frames, messages and reads."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from apps.proxy.egress.framed import TOLD, FrameError, FrameScrubber, Masker
from apps.proxy.egress.scrub import Needles, forms

SECRET = 'aaaab/aaaa+aaab"aaaa=aaaab aaaa'
NEEDLES = forms(SECRET)
KINDS = (Opcode.CONT, Opcode.TEXT, Opcode.BINARY)
CONTROL = (Opcode.PING, Opcode.PONG)


def wire(frames: list[Frame]) -> bytes:
    return b"".join(frame.serialize(mask=False) for frame in frames)


def read(data: bytes) -> list[Frame]:
    """What a client's own library makes of the bytes."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while reader.buffer:
        parser = Frame.parse(reader.read_exact, mask=False)
        try:
            while True:
                next(parser)
        except StopIteration as done:
            found.append(done.value)
    return found


def payload(frames: list[Frame], *, control: bool = False) -> bytes:
    return b"".join(bytes(f.data) for f in frames if (f.opcode in CONTROL) == control)


@st.composite
def cut_up(draw: st.DrawFn, text: bytes) -> list[Frame]:
    """`text` over frames of random sizes and kinds, with control frames in between."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    frames = []
    for first, last in itertools.pairwise([0, *cuts, len(text)]):
        opcode = draw(st.sampled_from(KINDS))
        frames.append(Frame(opcode, text[first:last], fin=draw(st.booleans())))
        if draw(st.booleans()):
            frames.append(Frame(draw(st.sampled_from(CONTROL)), draw(st.binary(max_size=20))))
    return frames


def through(data: bytes, cuts: list[int], pauses: frozenset[int] = frozenset()) -> bytes:
    scrubber = FrameScrubber(NEEDLES)
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    out = b""
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        out += scrubber.feed(data[first:last])
        if number in pauses:
            out += scrubber.flush()
            assert not scrubber.holds
    return out + scrubber.flush()


TEXTS = st.lists(
    st.sampled_from([*(form.decode() for form in NEEDLES), SECRET[:-1], SECRET[1:], "x", "aaaa"]),
    max_size=6,
).map(lambda pieces: "".join(pieces).encode())
CUTS = st.lists(st.integers(0, 600), max_size=20)


@given(st.data(), TEXTS, CUTS)
def test_no_form_passes_however_it_is_cut(
    data: st.DataObject, text: bytes, cuts: list[int]
) -> None:
    frames = data.draw(cut_up(text))
    clean = read(through(wire(frames), cuts))
    assert [(f.opcode, f.fin, len(f.data)) for f in clean] == [
        (f.opcode, f.fin, len(f.data)) for f in frames
    ]
    masked = payload(clean)
    assert not any(needle in masked for needle in NEEDLES)
    for before, after in zip(text, masked, strict=True):
        assert after in (before, ord("*"))


@given(st.data(), CUTS)
def test_no_form_passes_in_control_frames(data: st.DataObject, cuts: list[int]) -> None:
    text = SECRET.encode() * 2
    at = data.draw(st.integers(1, 100))
    frames = [
        one
        for first in range(0, len(text), at)
        for one in (Frame(Opcode.PING, text[first : first + at]), Frame(Opcode.TEXT, b"between"))
    ]
    clean = read(through(wire(frames), cuts))
    assert SECRET.encode() not in payload(clean, control=True)
    assert payload(clean) == b"between" * (len(frames) // 2)


@given(st.data(), CUTS, st.frozensets(st.integers(0, 20)))
def test_a_server_that_waits_gains_a_few_bytes(
    data: st.DataObject, cuts: list[int], pauses: frozenset[int]
) -> None:
    frames = data.draw(cut_up(b"x" + SECRET.encode() + b"x"))
    masked = payload(read(through(wire(frames), cuts, pauses)))
    told = masked[1:-1].rstrip(b"*")
    assert len(told) < TOLD
    assert SECRET.encode().startswith(told)


def test_byte_by_byte_with_a_pause_after_each() -> None:
    masker = Masker(Needles([b"0123456789abcdefghij"]))
    out = b"".join(
        masker.feed(bytes([byte])) + masker.flush() for byte in b"<0123456789abcdefghij>"
    )
    assert out == b"<0123456*************>"


@given(st.lists(st.binary(max_size=300), max_size=5), CUTS)
def test_other_bytes_pass_unchanged_and_at_once(parts: list[bytes], cuts: list[int]) -> None:
    data = wire([Frame(Opcode.BINARY, part) for part in parts])
    scrubber = FrameScrubber(forms("a secret that is not in there"))
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    out = b"".join(scrubber.feed(data[a:b]) for a, b in itertools.pairwise(edges))
    assert out + scrubber.flush() == data


def test_large_frames() -> None:
    body = b"y" * 70_000 + SECRET.encode() + b"y" * 70_000
    clean = through(wire([Frame(Opcode.BINARY, body)]), [3, 5, 9, 70_005, 70_020])
    assert payload(read(clean)) == body.replace(SECRET.encode(), b"*" * len(SECRET))


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x81\x00\x00\x00\x00a",  # masked, as only clients do
        b"\xc1\x01a",  # compressed, without an extension
        b"\x83\x01a",  # an opcode that does not exist
        b"\x8b\x00",
        b"\x09\x00",  # a ping in parts
        b"\x89\x7e\x00\x7e" + bytes(126),  # a large one
        b"\x82\x7f\xff" + bytes(7),  # a negative length
    ],
)
def test_what_no_server_may_send_ends_it(data: bytes) -> None:
    with pytest.raises(FrameError):
        FrameScrubber(NEEDLES).feed(data)
