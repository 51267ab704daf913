"""HL7 over MLLP: one message, one acknowledgement.

Source: HL7 MLLP Release 1 (frame 0x0B ... 0x1C 0x0D), HL7 version 2.5.1 chapter 2.9 (MSA-1).
"""

from typing import Final

from service.lims.connection import open_guarded
from service.lims.outcome import Outcome

START: Final = b"\x0b"
END: Final = b"\x1c\r"


def frame(message: bytes) -> bytes:
    """Put a message into MLLP's frame."""
    return START + message + END


def read_acknowledgement(message: bytes, control_id: str) -> Outcome:
    """Return what an ACK means: AA is done, AE may work later, AR never will.

    Args:
        message: The ACK without its frame.
        control_id: MSH-10 of what was sent; an ACK of something else proves nothing.
    """
    for segment in message.decode("utf-8", "replace").replace("\n", "\r").split("\r"):
        fields = segment.split(segment[3:4] or "|")
        if fields[0] != "MSA" or len(fields) < 3:
            continue
        code, acknowledged = fields[1], fields[2]
        if acknowledged != control_id:
            return Outcome("retry", "acknowledgement of another message")
        match code:
            case "AA" | "CA":
                return Outcome("accepted", f"ACK {code}")
            case "AR" | "CR":
                return Outcome("refused", f"ACK {code}")
            case "AE" | "CE":
                return Outcome("retry", f"ACK {code}")
        break
    return Outcome("retry", "no acknowledgement that can be read")


async def exchange(
    message: bytes, control_id: str, *, host: str, port: int, tls: bool, allow_private: bool
) -> Outcome:
    """Send a message and wait for its acknowledgement. The caller bounds the time.

    Raises:
        OSError: The listener cannot be reached.
        EOFError: It hung up without an answer.
        asyncio.LimitOverrunError: Its answer is longer than any acknowledgement.
    """
    reader, writer = await open_guarded(host, port, tls=tls, allow_private=allow_private)
    try:
        writer.write(frame(message))
        await writer.drain()
        answer = await reader.readuntil(END)
        return read_acknowledgement(answer.lstrip(START).removesuffix(END), control_id)
    finally:
        writer.close()
