"""The inside of sandbox.py: a program of its own that shuts itself in and runs code that nobody has read.

    python -I sandbox_child.py REPORTS_FD      the job is JSON on standard input

It reports JSON lines on the descriptor: {"missing": why} if it could not shut itself in, else {"ready": true} and then
{"result": ..} or {"error": ..}. Standard library only; nothing of ours is imported, so that it starts fast. In order:

    user, mount, process, network, IPC and host-name namespaces of its own; a new root with the interpreter's files,
    read-only, and an empty /tmp; limits; all capabilities dropped; a system-call filter without new processes, new
    programs, sockets, signals, mounts, tracing, or a way back

With job["isolation"] "container" the namespaces and the new root are left out.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_THREAD = 0x20000000, 0x40000000, 0x10000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
SYS_MOUNT_SETATTR = 442  # the same on every machine
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
REFUSED = {  # by number (asm/unistd.h); clone is looked at more closely, clone3 "does not exist": threads take clone
    "x86_64": [
        41, 42, 43, 49, 50, 53, 57, 58, 59, 62, 101, 109, 112, 129, 134, 155, 157, 161, 163, 165, 166, 167, 168, 169,
        172, 173, 175, 176, 179, 200, 234, 237, 238, 240, 241, 246, 248, 249, 250, 256, 272, 279, 288, 297, 298, 304,
        308, 310, 311, 312, 313, 317, 320, 321, 322, 323,
    ],
    "aarch64": [
        39, 40, 41, 51, 58, 60, 89, 92, 97, 104, 105, 106, 117, 129, 130, 131, 138, 142, 154, 157, 167, 180, 181,
        198, 199, 200, 201, 202, 203, 217, 218, 219, 221, 224, 225, 235, 237, 238, 239, 240, 241, 242, 264, 265, 268,
        270, 271, 272, 273, 277, 280, 281, 282, 294,
    ],
}  # fmt: skip
REFUSED_ANYWHERE = [424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442]
"""pidfd, io_uring, the new mount calls, process_madvise, mount_setattr: the same numbers on every machine."""


def main() -> None:
    """Take the job, shut in, run."""
    reports = int(sys.argv[1])
    job = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _checked(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != job["parent"]:
        os._exit(1)
    try:
        if job["isolation"] == "namespaces":
            _apart(job)  # returns in the process that is shut in
        else:
            os.chdir(job["folder"])
        _limits(job["limits"])
        _step("no new privileges", lambda: _checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl"))
        _step("dropped capabilities", _drop_capabilities)
        _step("system-call filter (seccomp)", _filter_calls)
    except OSError as error:
        _report(reports, {"missing": str(error)})
        os._exit(1)
    _report(reports, {"ready": True})
    _report(reports, _run(job))
    sys.stdout.flush()
    os._exit(0)


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """The code, and after it ours, which leaves `result`."""
    try:
        exec(compile(job["before"], "before.py", "exec"), {"__name__": "before"})
        space: dict[str, Any] = {"__name__": "__main__", "__file__": "answer.py"}
        exec(compile(job["code"], "answer.py", "exec"), space)
        after: dict[str, Any] = {"result": None, "space": space, **job["given"]}
        exec(compile(job["after"], "after.py", "exec"), after)
        json.dumps(after["result"])
        return {"result": after["result"]}
    except SystemExit as error:
        return {"error": f"called exit({error.code!r:.40})"}
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "answer.py"]
        place = f" in line {lines[-1]}" if lines else ""
        return {"error": f"raised {type(error).__name__}{place}: {' '.join(str(error).split())[:200]}"}


def _report(reports: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(reports, data) :]


def _checked(value: int, what: str) -> int:
    if value < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return value


def _step(name: str, do: Callable[[], object]) -> None:
    """Do it, or say which step failed."""
    try:
        do()
    except OSError as error:
        raise OSError(f"{name}: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}") from error


# ---- namespaces and files


def _apart(job: dict[str, Any]) -> None:
    user, group = os.geteuid(), os.getegid()
    rest = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    _step("user namespaces", lambda: _checked(LIBC.unshare(CLONE_NEWUSER), "unshare"))
    _step("user namespaces", lambda: _map_ids(user, group))
    _step("mount, process and network namespaces", lambda: _checked(LIBC.unshare(rest), "unshare"))
    inside = os.fork()
    if inside:  # outside only waits: the first process of a namespace takes all others with it when it dies
        _, status = os.waitpid(inside, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 127)
    _checked(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    _step("a root of its own", lambda: _new_root(job["folder"], job["paths"], job["limits"]["file_mb"]))


def _map_ids(user: int, group: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _new_root(folder: str, paths: list[str], size_mb: int) -> None:
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir(folder + "/old")
    os.mkdir(folder + "/tmp")
    _mount("tmpfs", folder + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={size_mb}m,mode=700")
    for path in paths:  # after /tmp, for an interpreter that lives there
        _show(path, folder + path)
    os.chdir(folder)
    _checked(LIBC.syscall(PIVOT_ROOT[platform.machine()], b".", b"old"), "pivot_root")
    os.chdir("/")
    _checked(LIBC.umount2(b"/old", MNT_DETACH), "umount")
    os.rmdir("/old")
    _set_attributes("/", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0)
    os.chdir("/tmp")


def _show(path: str, target: str) -> None:
    """The path at its place under the new root, read-only with everything below it."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(path, target, None, MS_BIND | MS_REC)
    if not path.startswith("/dev/"):
        _set_attributes(target, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, AT_RECURSIVE)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    _checked(LIBC.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def _set_attributes(path: str, attributes: int, flags: int) -> None:
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    call = LIBC.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, wanted, len(wanted))
    _checked(call, f"mount_setattr {path}")


# ---- limits, capabilities, system calls


def _limits(limits: dict[str, int]) -> None:
    megabyte = 1 << 20
    for kind, value in (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_mb"] * megabyte),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * megabyte),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _drop_capabilities() -> None:
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails beyond the last one, and where it is not ours to drop
    header = struct.pack("Ii", 0x20080522, 0)
    _checked(LIBC.capset(header, struct.pack("6I", *[0] * 6)), "capset")


def _filter_calls() -> None:
    """A BPF program over (number, machine, arguments) of every system call; refused ones fail with EPERM."""
    machine = platform.machine()
    if machine not in AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"not known for {machine}")
    load, jump_if, jump_if_over, jump_if_set, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000
    refuse = {number: 0x50000 | code for number, code in (("EPERM", errno.EPERM), ("ENOSYS", errno.ENOSYS))}
    program = [(load, 0, 0, 4), (jump_if, 1, 0, AUDIT_ARCH[machine]), (give, 0, 0, kill), (load, 0, 0, 0)]
    program += [(jump_if_over, 0, 1, 0x40000000), (give, 0, 0, kill)]  # the x32 way into the same calls
    for number in [*REFUSED[machine], *REFUSED_ANYWHERE]:
        program += [(jump_if, 0, 1, number), (give, 0, 0, refuse["EPERM"])]
    program += [(jump_if, 0, 1, CLONE3), (give, 0, 0, refuse["ENOSYS"])]
    program += [(jump_if, 0, 3, CLONE[machine]), (load, 0, 0, 16)]  # the low half of its flags
    program += [(jump_if_set, 1, 0, CLONE_THREAD), (give, 0, 0, refuse["EPERM"])]
    program += [(give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    _checked(LIBC.prctl(PR_SET_SECCOMP, 2, head, 0, 0), "prctl")


if __name__ == "__main__":
    main()
