"""What all parts of the lab share: how it speaks, how it runs commands, and how it says that something is not to be had."""

import contextlib
import fcntl
import os
import pathlib
import re
import selectors
import subprocess
import time

SKIP = 77
PROJECT = pathlib.Path(__file__).resolve().parent.parent
BEGIN = time.monotonic()


class Skip(Exception):
    """Something that is needed cannot be had here."""


class Failure(Exception):
    """Something went wrong that should not."""


def tell(text):
    print(f"[{time.monotonic() - BEGIN:6.1f} s] {text}", flush=True)


def call(command, seconds, why_not, **options):
    """Runs a command quietly; `why_not` is raised with its last words if it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise type(why_not)(f"{why_not}: {error}") from error
    if done.returncode != 0:
        words = " / ".join(done.stdout.decode(errors="replace").strip().splitlines()[-3:])
        raise type(why_not)(f"{why_not}: {words or f'exit code {done.returncode}'}")
    return done.stdout


def cache():
    """Where downloads stay."""
    place = os.environ.get("SECUREMEMORY_LAB")
    if not place:
        place = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "securememory-lab"
    place = pathlib.Path(place).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Skip(f"nowhere to keep downloads (SECUREMEMORY_LAB can name a place): {error}") from error
    return place


@contextlib.contextmanager
def locked(place):
    """While it lasts, nobody else fetches, or makes what is kept."""
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lines_until(stream, end):
    """The lines of a stream, without what steers a terminal; TimeoutError where one does not come before `end()`."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0, end() - time.monotonic())):
                raise TimeoutError
            piece = os.read(stream.fileno(), 65536)
            if not piece:
                return
            *full, rest = (rest + piece).split(b"\n")
            for line in full:
                yield re.sub(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1bc|\r", "", line.decode(errors="replace"))
