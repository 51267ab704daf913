"""In which numbers a model runs, and which of them a processor is good at.

`fp32` is what the exporter verified against Keras. `int8` and `fp16` are files of their own beside
it, `bf16` is a way of running it; each is taken only where the model's contract says that its
accuracy was measured and accepted.
"""

from pathlib import Path
from typing import Final, Literal, get_args

Precision = Literal["fp32", "bf16", "int8", "fp16"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "int8", "fp16"]

_CPUINFO: Final = Path("/proc/cpuinfo")

# Instructions without which a precision costs more time than it saves. bf16 without them is
# emulated, 3 to 5 times slower than fp32; 8-bit products without them saturate at 16 bits, which
# also spoils the accuracy that was measured.
_INSTRUCTIONS: Final[dict[Precision, frozenset[str]]] = {
    "int8": frozenset({"avx512_vnni", "avx_vnni", "amx_int8"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16"}),
}
NOTED_FLAGS: Final = frozenset({"avx2", "avx512f"}).union(*_INSTRUCTIONS.values())
"""Processor flags that decide how fast a model runs."""


def precision_named(name: str | None) -> Precision:
    """Return a precision by its name in a result; results before there was a choice ran in fp32."""
    return next((known for known in get_args(Precision) if known == name), "fp32")


def processor_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str] | None:
    """Return the instruction sets of an x86 processor, as Linux names them.

    Args:
        cpuinfo: What the kernel tells of the processors.

    Returns:
        The flags of the first processor; None where nobody tells them (other systems, ARM).
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return None


def needed_instructions(precision: Precision) -> frozenset[str]:
    """Return the instruction sets of which a processor needs one; often empty."""
    return _INSTRUCTIONS.get(precision, frozenset())


def processor_suits(precision: Precision, flags: frozenset[str] | None) -> bool | None:
    """Tell whether a processor gains from a precision.

    Args:
        precision: The precision.
        flags: From `processor_flags`.

    Returns:
        None where the flags are not known.
    """
    needed = needed_instructions(precision)
    if not needed:
        return True
    return None if flags is None else not needed.isdisjoint(flags)
