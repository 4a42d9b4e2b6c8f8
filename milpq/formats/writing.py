"""Writing files that a run took long for: a bad place is said before it, and nobody sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from milpq.errors import UsageError


def check_place(path: Path, option: str = "") -> None:
    """Raise UsageError where no file can be written: a directory, a missing or read-only folder.

    Parameters
    ----------
    option : str
        Which option has named it.
    """
    named = f"{option} {path}".lstrip()
    if path.is_dir():
        raise UsageError(f"{named}: is a directory; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{named}: there is no directory {path.parent}; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{named}: not writable; choose another place")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step: who reads it sees all of it, or what was there before.

    What can only be written in place is: a device, a link, a file in a read-only folder.
    """
    if path.is_symlink() or (path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK))):
        path.write_bytes(content)
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # mkstemp makes files private; a report is as public as any file the user makes.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
