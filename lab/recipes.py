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
    # QEMU 7.2 gets the flags of cmpxchg16b wrong now and then, and the kernel crashes: it has to do without.
    processor: str = "max,-cx16"
    command_line: str = ""  # of the kernel, besides the console
    memory: int = 768  # MiB
    processors: int = 2
    seconds: int = 420  # then the machine is stopped
    part: str = "change"  # `change`: in every run of .ci/run; other names: only when asked for


TRIXIE_CLOUD = Kernel("trixie", "linux-image-cloud-amd64", "amd64")

X86_64 = Machine(
    qemu="qemu-system-x86_64",
    package="qemu-system-x86",
    options=("-accel", "tcg", "-nodefaults"),
    console="ttyS0",
    kernel=TRIXIE_CLOUD,
    target="x86_64-unknown-linux-gnu",
)

# A test that finds nothing to do passes; here that counts as a failure.
RAN = (r"test result: ok\. [1-9]",)
TEST = ("--nocapture", "--test-threads=2")
# In this machine every key hold is to be had.
HELD = (r"skipped: (Pkey|Secretmem|no protection keys)",)
# Attacks on secretmem that a protection key makes different from what any host of today can try by itself.
BESIDE_KEYS = "stray-read,read-instant,swap,fork-child,residue,crash"



def stress(hold, seconds):
    """Threads in each other's way, under a watchdog."""
    arguments = ("stress", "--store", "sealed", "--hold", hold, "--threads", "4", "--seconds", str(seconds), "--json")
    says = ('"ok":true', '"skipped":null')
    return Job(f"stress-{hold}", "tool", arguments, says=says, seconds=seconds + 60, shows="operations")


RECIPES = {
    "x86_64-pkeys": Recipe(
        about="x86-64 with memory protection keys and memfd_secret",
        machine=X86_64,
        command_line="secretmem.enable=1",
        jobs=(
            Job("holds", "holds", TEST, says=RAN, never=HELD, seconds=150),
            Job("basics", "basics", TEST, says=RAN),
            Job("closing", "closing", TEST, says=RAN),
            Job("epochs", "epochs", TEST, says=RAN, never=HELD, seconds=200),
            Job("many", "many", TEST, says=RAN),
            # The kernel can be told here that memory has failed.
            Job(
                "lost",
                "lost",
                TEST,
                says=(*RAN, "_is_lost: Hardware$"),
                never=(*HELD, r"skipped: (Hardware|no MADV_HWPOISON)"),
                seconds=200,
            ),
            Job("handler_stack", "handler_stack", TEST, says=RAN),
            stress("pkey", 8),
            Job("info", "tool", ("info",), shows="^Key holds|^  (pkey|split|secretmem|guarded) "),
            Job("doctor", "tool", ("doctor", "--strict", "--store", "plain,sealed-pkey"), seconds=180, shows="."),
            Job(
                "doctor-secretmem",
                "tool",
                ("doctor", "--strict", "--store", "sealed-secretmem", "--only", BESIDE_KEYS),
                seconds=120,
                shows=".",
            ),
            Job("bench", "tool", ("bench", "--only", "sealed.pkey.read.32", "--rounds", "7"), shows=".", judged=False),
        ),
    ),
    "x86_64-pkeys-turnover": Recipe(
        about="refusals while keys turn over, and streams, with memory protection keys",
        machine=X86_64,
        part="long",
        command_line="secretmem.enable=1",
        jobs=(
            Job("epoch_faults", "epoch_faults", TEST, says=RAN, never=HELD, seconds=400),
            Job("stream", "stream", TEST, says=RAN, seconds=300),
        ),
    ),
    "x86_64-pkeys-long": Recipe(
        about="the rest of the tests with memory protection keys, and a longer stress",
        machine=X86_64,
        part="long",
        command_line="secretmem.enable=1",
        seconds=1200,
        jobs=(
            Job("fork", "fork", TEST, says=RAN, seconds=120),
            Job("read_path", "read_path", TEST, says=RAN, seconds=180),
            Job("faults", "faults", TEST, says=RAN, seconds=300),
            # Without those that must be done within seconds.
            Job("limits", "limits", (*TEST, "--skip", "ten_thousand"), says=RAN, seconds=300),
            *(stress(hold, 60) for hold in ("pkey", "secretmem", "split", "guarded")),
        ),
    ),
    "x86_64-pkeys-lifecycle": Recipe(
        about="the ends of vaults and threads, and vaults that children inherit, with memory protection keys",
        machine=X86_64,
        part="long",
        command_line="secretmem.enable=1",
        seconds=1500,
        jobs=(
            Job("vault_close", "vault_close", TEST, says=RAN, seconds=200),
            Job("close_order", "close_order", TEST, says=RAN),
            Job("fork_off", "fork_off", TEST, says=RAN, never=HELD, seconds=400),
            Job("drops", "drops", TEST, says=RAN, seconds=200),
            Job("threads", "threads", TEST, says=RAN, never=HELD, seconds=400),
            Job("thread_ends", "thread_ends", TEST, says=RAN, never=HELD, seconds=400),
        ),
    ),
    "x86_64-pkeys-stress": Recipe(
        about="ten minutes of stress with a protection key",
        machine=X86_64,
        part="long",
        command_line="secretmem.enable=1",
        seconds=900,
        jobs=(stress("pkey", 600),),
    ),
    "x86_64-nokeys": Recipe(
        about="x86-64 without protection keys, AES instructions and memfd_secret: what is refused there",
        machine=X86_64,
        processor="Nehalem,-cx16",
        command_line="secretmem.enable=0",
        jobs=(
            Job(
                "holds",
                "holds",
                (*TEST, "pkey_denies_its_maker", "secretmem_is_closed_at_rest", "auto_takes_the_first"),
                says=(*RAN, r"skipped: Pkey .*pkey_alloc", r"skipped: Secretmem .*memfd_secret"),
            ),
            Job("basics", "basics", TEST, says=RAN),
            Job(
                "doctor",
                "tool",
                ("doctor", "--only", "stray-read", "--store", "plain,sealed-pkey,sealed-secretmem,sealed-split"),
                says=(r"sealed-pkey: .*pkey_alloc", r"sealed-secretmem: .*memfd_secret", "could be checked hold here"),
                seconds=120,
                shows=".",
            ),
        ),
    ),
}
