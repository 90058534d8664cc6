"""Programs that run on the lab's own kernel: natively, or under Wine."""

import os
import pathlib
import platform
import re
import signal
import subprocess
import tempfile
import time

import wine
from common import Failure, tell
from machine import Boot


def describe(target):
    """Kernel and page size; of the kernel's version only what is not the host's own affair."""
    version = re.match(r"\d+\.\d+(\.\d+)?", platform.release()).group()
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    return f"{platform.system()} {version}, {platform.machine()}, pages of {page} kB, {os.cpu_count()} processors"


def processor():
    """The model, as the kernel names it."""
    found = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def prepare(target, place):
    """The command that a program's path follows, and what is added to the environment."""
    return wine.prepare(place) if target.wine else ([], {})


def run(target, jobs, programs, place, verbose):
    """Runs jobs here, each in a directory of its own."""
    command, more = prepare(target, place)
    found = Boot()
    found.kernel = describe(target)
    tell(f"here: {found.kernel}")
    for job in jobs:
        code, lines, took = one([*command, str(programs[job.program]), *job.arguments], job, more)
        found.ended[job.name] = code, lines, took
        tell(f"{job.name}: {'killed' if code is None else f'exit code {code}'}, {took:.0f} s")
        if verbose or code != 0:
            print("\n".join(f"    | {line}" for line in lines[-3000:] if line.strip()), flush=True)
    return found


def one(command, job, more):
    """Exit code (None: it did not end), output, seconds."""
    begin = time.monotonic()
    environment = os.environ | more | dict(job.environment)
    with tempfile.TemporaryDirectory(prefix="securememory-lab-", ignore_cleanup_errors=True) as work:
        os.chmod(work, 0o777)
        files = [open(pathlib.Path(work) / name, "w+b") for name in ("output", "errors")]
        try:
            done = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=files[0],
                stderr=files[1],
                cwd=work,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise Failure(f"{job.name} cannot be started: {error}") from error
        try:
            code = done.wait(job.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Also those that it has started.
            try:
                os.killpg(done.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            done.wait()
        lines = []
        for file in files:
            file.seek(0)
            lines += file.read().decode(errors="replace").replace("\r", "").splitlines()
            file.close()
    return code, lines, time.monotonic() - begin
