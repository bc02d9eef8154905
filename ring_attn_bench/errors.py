"""Every error this project raises on purpose, as one small tree.

RingAttnBenchError
├── InvalidArgument (ValueError)      what the caller passed cannot be right
│   ├── SuiteError                    ... in a suite file
│   └── FileError                     a file that cannot be read or written, or is damaged
├── UnknownName (ValueError)          no backend, partition or transport of that name
├── Unsupported                       a right question, which backend or transport cannot answer
├── BackendUnavailable                the backend cannot run on this machine
├── MachineLacks                      the machine has not got what was asked for by name
├── TransportUnavailable              the transport cannot serve these ranks
├── NoAnswer                          the process that was to find something out died, or was silent
├── NoProcessGroup (RuntimeError)     a ring was asked for where no ranks are connected
└── RingBroken (RuntimeError)         a message of a ring did not arrive, and no later one will

Two more are no errors, and end what runs: Terminated, Interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def clause(sentence: object) -> str:
    """The sentence as a part of another: without its full stop."""
    text = str(sentence)
    return text if text.endswith("...") else text.removesuffix(".")


def placed(message: str, where: Iterable[object]) -> str:
    """What is wrong, with the field that it is wrong in: `contestant.options.slots`; of no field,
    what it says is about all of them."""
    field = ".".join(map(str, where))
    return f"{clause(message)}, at {field}" if field else clause(message)


class RingAttnBenchError(Exception):
    """Base of every deliberate error; its text is one or two sentences: what, got, allowed.

    All of them can be pickled, whatever their constructors take: a worker's reach its parent.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(
    kind: type[RingAttnBenchError], arguments: tuple[object, ...], state: dict[str, object]
) -> RingAttnBenchError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error


class InvalidArgument(RingAttnBenchError, ValueError):
    """An argument that no backend could accept."""


class SuiteError(InvalidArgument):
    """A suite file that cannot be run as written."""


class FileError(InvalidArgument):
    """A file or folder that cannot be read or written, or does not hold what it should."""


class UnknownName(RingAttnBenchError, ValueError):
    """A name that is not in a table; says which names are, and the nearest one."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        nearest = get_close_matches(name, names, n=1) if isinstance(name, str) else ()
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        known_names = ", ".join(names) or "none"
        super().__init__(f"unknown {kind} {shown(name)}.{hint} Known: {known_names}.")


class Unsupported(RingAttnBenchError):
    """A backend was asked for something that it does not do; the reason is the text.

    kind: what it is that refuses, where it is no backend: a transport.
    """

    def __init__(self, backend: str, reason: str, kind: str = "backend") -> None:
        super().__init__(f"{kind} {backend!r} cannot run this: {reason}")
        self.backend = backend
        self.reason = reason


class BackendUnavailable(RingAttnBenchError):
    """A backend that cannot be loaded here; says why and, where known, the command that helps."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"backend {backend!r} is unavailable here: {reason}")
        self.backend = backend
        self.reason = reason


class TransportUnavailable(RingAttnBenchError):
    """A transport that cannot be loaded here, or cannot serve the ring's ranks; says why."""

    def __init__(self, transport: str, reason: str) -> None:
        super().__init__(f"transport {transport!r} is unavailable here: {reason}")
        self.transport = transport
        self.reason = reason


class MachineLacks(RingAttnBenchError):
    """The machine has not got what was asked for by name."""


class NoAnswer(RingAttnBenchError):
    """The process that was to find something out has died, or was silent for too long."""


class NoProcessGroup(RingAttnBenchError, RuntimeError):
    """A ring function was called in a process that belongs to no process group."""


class RingBroken(RingAttnBenchError, RuntimeError):
    """A rank waited in vain: another one died, hung, or makes other calls."""


class Terminated(BaseException):
    """A signal asks this program to end. No SystemExit: that may be a plug-in's, and survived."""


class Interrupted(KeyboardInterrupt):
    """A person, or a signal, ended what was running.

    kept: how many of what the folder holds of it. by: what ended it.
    """

    def __init__(self, folder: Path, kept: int, what: str, by: BaseException) -> None:
        held = f"{kept} {what} are kept" if kept else f"no {what} were finished, and none are kept"
        super().__init__(f"{held} in {folder}")
        self.folder = folder
        self.kept = kept
        self.by = by


MOST_SHOWN = 60
"""Characters of a caller's value in a sentence."""
_KINDS = {"Tensor": "a tensor", "ndarray": "an array", "int": "an integer"}


def shown(value: object) -> str:
    """A caller's value in a few words, whatever it is: by its type where it has no repr."""
    kind = type(value).__name__
    named = _KINDS.get(kind, f"a {kind}")
    try:
        shape = tuple(getattr(value, "shape", ()))
        if shape or hasattr(
            value, "requires_grad"
        ):  # a whole one takes lines, or what is not in memory
            return f"{named} of shape {shape} and {value.dtype}"  # type: ignore[attr-defined]
        text = repr(value)
        if len(lines := text.splitlines()) > 1:
            text = " ".join(line.strip() for line in lines)
    except Exception:  # a nested tensor has no shape, an integer of 5000 digits no repr
        return f"{named} that cannot be printed"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
