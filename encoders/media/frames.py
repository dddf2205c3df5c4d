"""How long a frame of sound is, by its own head: whether the last one of a stream without a container is whole.

MPEG audio of three layers (ISO/IEC 11172-3, 13818-3), AAC in ADTS and LOAS (ISO/IEC 13818-7, 14496-3), AC-3 and E-AC-3
(ETSI TS 102 366), DTS (ETSI TS 102 114), TrueHD and MLP, GSM 06.10, AMR (RFC 4867).
"""

from __future__ import annotations

from collections.abc import Callable

_LONGEST = 1 << 14  # bytes of a frame, at most
_TRUEHD_UNITS = (40, 80, 160)  # samples

_KBITS = {  # of MPEG audio by version (3: MPEG 1, 2: MPEG 2 and 2.5), layer and bit-rate index
    (3, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AMR = (13, 14, 16, 18, 20, 21, 27, 32, 6)  # bytes of a frame by its type, 9 to 15 have its head alone
_AMR_WB = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6)


def missing_of_frame(codec: str, data: bytes) -> int:
    """How many bytes are missing of the last of the frames that follow each other in `data`.

    codec: its name in FFmpeg. 0 where that is not known, or something else follows.
    """
    length_of = next((length for names, length in _LENGTHS.items() if codec in names.split()), None)
    place = 0
    while length_of and place < len(data):
        length = length_of(data[place : place + _LONGEST])
        if length <= 0:
            return 0
        place += length
    return max(0, place - len(data))


def _mpeg(head: bytes) -> int:
    """A frame of MP1, MP2 or MP3. One of free format states no bit rate."""
    if head[0] != 0xFF:
        return 0
    if len(head) < 4:
        return 4
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate, hertz, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if head[1] < 0xE0 or version not in _HERTZ or layer == 4 or not 0 < rate < 15 or hertz == 3:
        return 0
    bits = _KBITS[3 if version == 3 else 2, layer][rate] * 1000
    if layer == 1:
        return (12 * bits // _HERTZ[version][hertz] + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // _HERTZ[version][hertz] + padding


def _adts(head: bytes) -> int:
    if head[0] != 0xFF or len(head) > 1 and head[1] & 0xF6 != 0xF0:
        return 0
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5 if len(head) >= 7 else 7


def _loas(head: bytes) -> int:
    if head[0] != 0x56 or len(head) > 1 and head[1] & 0xE0 != 0xE0:
        return 0
    return 3 + ((head[1] & 0x1F) << 8 | head[2]) if len(head) >= 3 else 3


def _ac3(head: bytes) -> int:
    """A frame of AC-3, or of E-AC-3, whose bit stream has a number above 10."""
    if head[:2] != b"\x0b\x77"[: len(head)]:
        return 0
    if len(head) < 6:
        return 6
    if head[5] >> 3 > 10:
        return 2 * (((head[2] & 7) << 8 | head[3]) + 1)
    hertz, code = head[4] >> 6, head[4] & 0x3F
    if hertz == 3 or code >= 2 * len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code // 2]
    return 2 * (2 * kbits, 320 * kbits // 147 + code % 2, 3 * kbits)[hertz]


def _dts(head: bytes) -> int:
    """A core frame, of 16-bit words in their usual order."""
    if head[:4] != b"\x7f\xfe\x80\x01"[: len(head)]:
        return 0
    return ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1 if len(head) >= 8 else 8


def _gsm(head: bytes) -> int:
    return 33 if head[0] >> 4 == 0xD else 0


def _truehd(head: bytes) -> int:
    """A unit of TrueHD or MLP. It has no mark, but what follows is one only if its time is that of the next unit."""
    length = 2 * ((head[0] & 0x0F) << 8 | head[1]) if len(head) >= 4 else 0
    after = head[length + 2 : length + 4]
    later = int.from_bytes(after, "big") - int.from_bytes(head[2:4], "big")
    return length if not after or later % 65_536 in _TRUEHD_UNITS else 0


def _by_type(lengths: tuple[int, ...]) -> Callable[[bytes], int]:
    def length(head: bytes) -> int:
        kind = head[0] >> 3 & 15
        if head[0] & 0x83 or not head[0]:  # bits that are 0 in every frame; and zeros behind the last
            return 0
        return lengths[kind] if kind < len(lengths) else 1

    return length


_LENGTHS: dict[str, Callable[[bytes], int]] = {
    "mp1 mp1float mp2 mp2float mp3 mp3float": _mpeg,
    "aac": _adts,
    "aac_latm": _loas,
    "ac3 eac3": _ac3,
    "dca": _dts,
    "truehd mlp": _truehd,
    "gsm": _gsm,
    "amrnb libopencore_amrnb": _by_type(_AMR),
    "amrwb libopencore_amrwb": _by_type(_AMR_WB),
}
