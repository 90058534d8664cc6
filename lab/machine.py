"""An emulated machine: what is in it, and how it is started and listened to."""

import pathlib
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time

from common import Failure, Skip, call, lines_until, tell
from packages import fetch, need

START = 300  # seconds until the first job begins; 4 are usual, but not on a busy host
STARTS = 3
SLACK = 90
IMAGE = r"\./(boot/vmlinu[^/]+|usr/lib/modules/[^/]+/vmlinu[^/]+)"
BUSYBOX = r"\./(usr/)?bin/busybox"


def prepare(target, place):
    """Kernel and busybox for a target's machine."""
    machine = target.machine
    need({machine.qemu: machine.package, "cpio": "cpio"})
    last = None
    for kernel in machine.kernels:
        name = f"vmlinuz-{kernel.suite}-{kernel.package}"
        try:
            found = fetch(kernel.suite, kernel.architecture, kernel.package, IMAGE, place, name)
        except Skip as why:
            tell(f"{why}")
            last = why
        else:
            busybox = f"busybox-{kernel.architecture}"
            return found, fetch(kernel.suite, kernel.architecture, "busybox-static", BUSYBOX, place, busybox)
    raise last


def init(jobs, mark):
    """The first program in the machine: runs the jobs one after the other and tells how each ended."""
    lines = [
        "#!/bin/busybox sh",
        "/bin/busybox --install -s /bin; export PATH=/bin HOME=/tmp",
        "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev",
        "mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs -o mode=1777 tmpfs /tmp; cd /tmp",
        "page=$(sed -n 's/^KernelPageSize: *//p' /proc/self/smaps | head -n 1)",
        f"echo; echo {mark} kernel $(uname -sr), $(uname -m), pages of $page, $(nproc) processors",
    ]
    for job in jobs:
        command = shlex.join(["timeout", "-s", "KILL", str(job.seconds), f"/programs/{job.program}", *job.arguments])
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in job.environment)
        lines.append(f"echo {mark} begin {job.name}")
        # Through a pipe, so that nobody takes the console for a person's terminal; what goes to standard error afterwards,
        # so that neither is in the middle of the other's lines.
        lines.append(f"{{ {settings} {command} 2> /errors; echo $? > /code; }} | cat; cat /errors")
        lines.append(f"echo; echo {mark} end {job.name} $(cat /code)")
        lines.append(f"killall -q -9 {job.program}; rm -rf /tmp/* /dev/shm/*")
    return "\n".join([*lines, f"echo {mark} done", "poweroff -f", ""])


def image(jobs, programs, busybox, mark, work):
    """The machine's whole disk, an initramfs: /init, busybox, the programs."""
    root = work / "root"
    for directory in ("bin", "proc", "sys", "dev", "tmp", "programs"):
        (root / directory).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    needed = set()
    for name in {job.program for job in jobs}:
        # What is not from a cross compiler has all in it that a debugger wants.
        mine = libraries(programs[name])
        if mine:
            call(["strip", "-o", str(root / "programs" / name), str(programs[name])], 60, Failure("strip"))
        else:
            shutil.copy(programs[name], root / "programs" / name)
        needed |= mine
    for library in needed:
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    (root / "init").write_text(init(jobs, mark))
    for path in (root / "init", *root.glob("*/*"), *root.iterdir()):
        path.chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*"))) + "\n"
    pack = ["cpio", "--quiet", "--create", "--format=newc", "--owner=+0:+0"]
    with (work / "initramfs").open("wb") as file:
        subprocess.run(pack, input=names.encode(), stdout=file, cwd=root, check=True, timeout=300)
    shutil.rmtree(root)
    return work / "initramfs"


def libraries(program):
    """The shared libraries of a program, and who loads them; none for one that is static, or for another processor."""
    done = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60)
    return set(re.findall(r"(/\S+) \(0x", done.stdout)) if done.returncode == 0 else set()


class Boot:
    """One start of a machine: for each job that began, its exit code (None: it did not end), output, and seconds."""

    def __init__(self):
        self.ended = {}
        self.kernel = None  # what the machine says of itself


def boot(target, jobs, kernel, busybox, programs, verbose):
    """Starts a machine. It may end no job: a machine that stops, or takes long, before its first one."""
    mark = f"@lab-{secrets.token_hex(4)}"
    found, current, lines, since = Boot(), None, [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="securememory-lab-") as work:
        initramfs = image(jobs, programs, busybox, mark, pathlib.Path(work))
        machine = target.machine
        command = [machine.qemu, *machine.options, "-cpu", target.processor, "-smp", str(target.processors)]
        command += ["-m", str(target.memory), "-nographic", "-no-reboot", "-serial", "stdio", "-monitor", "none"]
        command += ["-kernel", str(kernel), "-initrd", str(initramfs)]
        command += ["-append", f"console={machine.console} quiet panic=-1 oops=panic {target.command_line}".strip()]
        tell("$ " + shlex.join(command))
        begin = time.monotonic()
        limit = begin + START
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            for line in lines_until(qemu.stdout, lambda: limit):
                if verbose:
                    print("    | " + line)
                words = line.split()
                if words[:1] != [mark]:
                    lines.append(line)
                elif words[1] == "kernel":
                    found.kernel = line[len(mark) + len(" kernel ") :]
                    tell(f"up after {time.monotonic() - begin:.0f} s: {found.kernel}")
                elif words[1] == "begin":
                    current, lines, since = words[2], [], time.monotonic()
                    found.ended[current] = None, lines, 0
                    # The machine kills it first; here for a machine that hangs.
                    limit = since + SLACK + next(job.seconds for job in jobs if job.name == current)
                elif words[1] == "end":
                    took = time.monotonic() - since
                    limit = time.monotonic() + SLACK
                    found.ended[words[2]] = int(words[3]), lines, took
                    tell(f"{words[2]}: exit code {words[3]}, {took:.0f} s")
                    if words[3] != "0" and not verbose:
                        print("\n".join(f"    | {text}" for text in lines[-3000:] if text.strip()), flush=True)
                elif words[1] == "done":
                    break
        except TimeoutError:
            tell(f"stopped after {time.monotonic() - begin:.0f} s" + (f", in {current}" if current else ""))
        finally:
            qemu.kill()
            qemu.wait()
    if not found.ended:
        tell("no job began; the machine's last words:")
        print("\n".join(f"    | {line}" for line in lines[-20:]), flush=True)
    return found


def run(target, jobs, programs, place, verbose):
    """Runs jobs in a target's machine."""
    kernel, busybox = prepare(target, place)
    whole, left, starts = Boot(), list(jobs), STARTS
    while left:
        found = boot(target, left, kernel, busybox, programs, verbose)
        whole.ended |= found.ended
        whole.kernel = found.kernel or whole.kernel
        # Emulators crash, kernels in them too; that says nothing of the library as long as no job had begun.
        starts = STARTS if found.ended else starts - 1
        if not starts:
            raise Failure(f"{target.name}: the machine did not come up in {STARTS} starts")
        # A job that takes the machine with it has failed, and those after it get another machine.
        left = [job for job in left if job.name not in whole.ended]
        if left and found.ended:
            tell(f"{len(left)} jobs are left, for another start of the machine")
    return whole


def emulator(machine):
    """The emulator with its version."""
    text = call([machine.qemu, "--version"], 20, Skip(f"{machine.qemu} does not run")).decode()
    return "QEMU " + re.search(r"version (\d+\.\d+)", text).group(1)
