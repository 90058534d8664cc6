"""What `conditions` runs: built once, and copied to where everybody may run it; and how programs are run quietly."""

import json
import os
import pathlib
import shutil
import signal
import subprocess

from common import PROJECT, tell
from conditions_table import LONG


def built(arguments):
    """Builds with cargo; gives the paths of what can be run, by name."""
    command = ["cargo", *arguments, "--message-format=json"]
    tell("$ " + " ".join(command))
    lines = subprocess.run(command, stdout=subprocess.PIPE, cwd=PROJECT, check=True, text=True).stdout.splitlines()
    found = {}
    for line in lines:
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            target = message["target"]
            name = "lib" if "lib" in target["kind"] else target["name"]
            found[name] = message["executable"]
    return found


class Programs:
    """Copies that everybody may run."""

    def __init__(self, place, arguments):
        self.place = pathlib.Path(arguments.programs or arguments.keep or place)
        if not arguments.programs:
            self.place.mkdir(exist_ok=True)
            self.build(arguments.suite, arguments.doctor)
        self.place.chmod(0o755)
        self.probe, self.refuse, self.tool = (str(self.place / name) for name in ("conditions", "refuse", "securememory"))
        tests = sorted(self.place.glob("test-*")) if arguments.suite else []
        self.suite = {path.name.removeprefix("test-"): str(path) for path in tests}
        self.tool = self.tool if arguments.doctor else None

    def build(self, suite, doctor):
        library = ["--package", "securememory"]
        wanted = ["conditions"]
        if suite:
            files = (PROJECT / "crates/securememory/tests").glob("*.rs")
            wanted = sorted({file.stem for file in files} - set(LONG))
        chosen = ["--lib"] * suite + [word for name in wanted for word in ("--test", name)]
        for name, path in built(["test", *library, "--no-run", *chosen]).items():
            self.copy(path, name if name == "conditions" else "test-" + name)
        self.copy(built(["build", *library, "--example", "refuse"])["refuse"], "refuse")
        if doctor:
            self.copy(built(["build", "--release", "--package", "securememory-cli"])["securememory"], "securememory")

    def copy(self, path, name):
        (self.place / name).unlink(missing_ok=True)
        try:
            os.link(path, self.place / name)
        except OSError:
            shutil.copy(path, self.place / name)
            (self.place / name).chmod(0o755)


def environment(place, more=()):
    keep = {name: value for name, value in os.environ.items() if not name.startswith("SECUREMEMORY_")}
    return {**keep, "HOME": str(place), "TMPDIR": str(place), "RUST_BACKTRACE": "0", **dict(more)}


def stop(process):
    """Ends it with all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_quietly(command, place, seconds, more=()):
    """Exit code (None: it took too long) and output."""
    process = subprocess.Popen(
        command, cwd=place, env=environment(place, more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )
    try:
        output = process.communicate(timeout=seconds)[0]
        return process.returncode, output.decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0].decode(errors="replace")
    finally:
        stop(process)
