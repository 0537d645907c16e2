"""The file of a database before SQLite sees it: where it may lie, who may read it, which one it is."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from .errors import ConfigError, StoreUnavailable

__all__ = ["checked_path", "create", "inode_of"]

#: RETURNING came with it.
OLDEST_SQLITE = (3, 35, 0)

_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "glusterfs", "ceph"}
)


def checked_path(path: str | os.PathLike[str]) -> str:
    """The one name of a database file for all processes, if it may be used.

    Raises:
        ConfigError: it is no path of a file, or not on a local disk; or SQLite is too old.
        StoreUnavailable: its directory is not there.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigError(
            f"Python's sqlite3 has SQLite {sqlite3.sqlite_version}, and 3.35 or newer is needed: use a newer Python"
        )
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"path is {path!r}: give the path of a file")
    text = os.fspath(path)
    if not text or text == ":memory:" or text.startswith("file:"):
        raise ConfigError(f"path is {text!r}: give the path of a file; for a broker in memory use MemoryBroker")
    if "://" in text:
        raise ConfigError(f"path is {text!r}, a URL: give the path of a file, or the URL to broker_from_url")
    # One name for all processes, however they came to it: the files beside the database are named after it.
    text = os.path.realpath(text)
    directory = os.path.dirname(text)
    if not os.path.isdir(directory):
        raise StoreUnavailable(f"{text}: there is no directory {directory}: create it first")
    if os.path.isdir(text):
        raise ConfigError(f"path is {text!r}, a directory: give the path of a file")
    file_system = _file_system(directory)
    if file_system in _NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"{text} is on a network file system ({file_system}), where SQLite's locks cannot be trusted: "
            "use a local disk"
        )
    return text


def create(path: str) -> None:
    """Make the file if it is not there, and see that only its owner can read it; SQLite's side files follow it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if os.stat(path).st_mode & 0o077:
            for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-turn"):
                if os.path.exists(name):
                    try:
                        os.chmod(name, 0o600)
                    except PermissionError:
                        pass  # another user's file: whether it may be used at all, SQLite will say
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be made: {error.strerror}") from error


def inode_of(path: str) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; ``None`` if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_dev


def _file_system(directory: str) -> str | None:
    """The kind of file system a directory is on, where the system tells (Linux)."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        device = os.stat(directory).st_dev
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for mount in mounts:
        fields = mount.split()
        if len(fields) > 6 and fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1]
    return None
