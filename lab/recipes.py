"""What the lab can run: machines, and the jobs of each. `run` does the work; a new machine is an entry here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """A Debian package, of which only boot/vmlinu* is taken."""

    suite: str
    package: str
    architecture: str


@dataclass(frozen=True)
class Machine:
    """An emulated machine: who emulates it, with what kernel, and for which Rust target programs are built."""

    qemu: str
    package: str  # the Debian package that has the emulator
    options: tuple
    console: str
    kernel: Kernel
    target: str


@dataclass(frozen=True)
class Job:
    """One program in a machine. It passes if its exit code is 0 and its output is as it must be."""

    name: str
    program: str  # a test of crates/securememory/tests, or `tool`
    arguments: tuple = ()
    environment: tuple = ()
    seconds: int = 60  # then it is killed in the machine
    says: tuple = ()  # regular expressions: each must be in the output
    never: tuple = ()  # none of these may be in it
    shows: str = r"^test result:|skipped"  # lines like this are shown even if all is well
    judged: bool = True  # no: only for information


@dataclass(frozen=True)
class Recipe:
    """Jobs that share one start of a machine."""

    about: str
    machine: Machine
    jobs: tuple
    processor: str = "max"
    command_line: str = ""  # of the kernel, besides the console
    memory: int = 768  # MiB
    processors: int = 2
    seconds: int = 300  # then the machine is stopped
    part: str = "change"  # `change`: in every run of .ci/run; other names: only when asked for


TRIXIE_CLOUD = Kernel("trixie", "linux-image-cloud-amd64", "amd64")

X86_64 = Machine(
    qemu="qemu-system-x86_64",
    package="qemu-system-x86",
    # One host thread for all processors: with one for each, QEMU 7.2 crashed this kernel in 3 of 24 starts.
    options=("-accel", "tcg,thread=single", "-nodefaults"),
    console="ttyS0",
    kernel=TRIXIE_CLOUD,
    target="x86_64-unknown-linux-gnu",
)

# A test that finds nothing to do passes; here that counts as a failure.
RAN = (r"test result: ok\. [1-9]",)
TEST = ("--nocapture", "--test-threads=2")

RECIPES = {
    "x86_64-pkeys": Recipe(
        about="x86-64 with memory protection keys and memfd_secret",
        machine=X86_64,
        command_line="secretmem.enable=1",
        jobs=(
            Job("basics", "basics", TEST, says=RAN),
            Job("closing", "closing", TEST, says=RAN),
            Job("stress", "stress", TEST, says=RAN),
        ),
    ),
}
