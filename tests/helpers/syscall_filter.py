"""Runs a program behind the filter of system calls that a unit asks for, as systemd would put it up.

python syscall_filter.py UNIT PROGRAM ARGUMENTS…
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

LIBRARY = "libseccomp.so.2"

_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | errno.EPERM
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_MDWE = 65


def expanded(names: list[str]) -> set[str]:
    """The system calls that names stand for, where "@system-service" is a group of systemd's."""
    found: set[str] = set()
    for name in names:
        if name.startswith("@"):
            command = ["systemd-analyze", "syscall-filter", name]
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
                1:
            ]
            found |= expanded([line.strip() for line in lines if line.strip() and "#" not in line])
        else:
            found.add(name)
    return found


def rules(unit: str) -> tuple[bool, set[str]]:
    """Whether a unit lists what is allowed (else what is denied), and the calls in its list."""
    values = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("SystemCallFilter=")]
    is_allow_list = not values[0].startswith("~")
    listed: set[str] = set(expanded(["@default"])) if is_allow_list else set()
    for value in values:
        calls = expanded(value.removeprefix("~").split())
        listed = listed | calls if value.startswith("~") != is_allow_list else listed - calls
    return is_allow_list, listed


def put_up(unit: str) -> None:
    """Filter what this process, and all that it starts, may ask of the kernel from now on."""
    is_allow_list, calls = rules(unit)
    seccomp = ctypes.CDLL(LIBRARY, use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    default, action = (_DENY, _ALLOW) if is_allow_list else (_ALLOW, _DENY)
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(default)))
    for name in sorted(calls):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # a call of other processors
            assert seccomp.seccomp_rule_add(context, ctypes.c_uint32(action), number, 0) == 0, name
    libc = ctypes.CDLL(None, use_errno=True)
    if "MemoryDenyWriteExecute=yes" in unit.splitlines():
        assert libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0) == 0 or ctypes.get_errno() == errno.EINVAL
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert seccomp.seccomp_load(context) == 0


if __name__ == "__main__":
    put_up(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
