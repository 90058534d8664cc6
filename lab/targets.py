"""The platforms that the lab knows. `run` does the work; a new one is an entry here."""

from dataclasses import dataclass, field

from suite import Pace


@dataclass(frozen=True)
class Kernel:
    """A Debian package, of which only boot/vmlinu* is taken."""

    suite: str
    package: str
    architecture: str


@dataclass(frozen=True)
class Machine:
    """An emulated machine: who emulates it, and with what kernel."""

    qemu: str
    package: str  # the Debian package that has the emulator
    options: tuple
    console: str
    kernels: tuple  # the first that can be had


@dataclass(frozen=True)
class Target:
    """Where the whole suite and the doctor run, and how; or where no more than the types are checked."""

    name: str
    system: str  # as the tables name it
    about: str
    triple: str
    machine: Machine | None = None  # none: here
    processor: str = "max"  # of the machine
    command_line: str = ""  # of the kernel, besides the console
    memory: int = 2048  # MiB: the programs are in it twice for a moment
    processors: int = 2
    wine: bool = False  # programs run here under Wine; else by themselves, or in `machine`
    check: bool = False  # only the types are checked
    pace: Pace = Pace()
    always: tuple = ()  # what must not be skipped: regular expressions of reasons
    doctor: tuple = ()  # further arguments of the doctor
    # Test programs that belong to every change, each with parts of the names of its tests, or with none for all of them.
    subset: dict = field(default_factory=dict)
    subset_stress: tuple = ()  # key holds
    subset_doctor: tuple | None = None
    subset_instructions: tuple = ()  # an operation, and how many of its instructions may be the library's
    limits: str = ""  # what this target does not show, for the table


def x86(suite, package):
    return Machine(
        "qemu-system-x86_64", "qemu-system-x86", ("-accel", "tcg", "-nodefaults"), "ttyS0", (Kernel(suite, package, "amd64"),)
    )


def arm(package):
    # Signed pointers by QEMU's own arithmetic: the architecture's takes half of all the time.
    options = ("-M", "virt", "-accel", "tcg", "-nodefaults")
    return Machine("qemu-system-aarch64", "qemu-system-arm", options, "ttyAMA0", (Kernel("trixie", package, "arm64"),))


# QEMU 7.2 gets the flags of cmpxchg16b wrong now and then, and the kernel crashes: it has to do without. And it gets the upper
# half of a vaesenc of 256 bits wrong, by which AEGIS-256X4 gives other tags than it should.
WITH_KEYS = "max,-cx16,-vaes"
NO_KEYS = "max,-cx16,-vaes,-pku"
ARM = "max,pauth-impdef=on"
SECRETMEM = "secretmem.enable=1"
EMULATED = Pace(slow=True, no_cargo="runs cargo, which this machine has not", longer={"lost": 1200, "faults": 1200})
CROSS = Pace(no_cargo="looks at what cargo builds for the host, which is another target")
PPC = Machine(
    "qemu-system-ppc64",
    "qemu-system-ppc",
    ("-M", "pseries", "-accel", "tcg", "-vga", "none", "-nodefaults"),
    "hvc0",
    (
        Kernel("trixie", "linux-image-powerpc64le-64k", "ppc64el"),
        Kernel("bookworm", "linux-image-powerpc64le", "ppc64el"),
    ),
)
S390 = Machine(
    "qemu-system-s390x",
    "qemu-system-misc",
    ("-M", "s390-ccw-virtio", "-accel", "tcg", "-nodefaults"),
    "ttysclp0",
    (Kernel("trixie", "linux-image-s390x", "s390x"), Kernel("bookworm", "linux-image-s390x", "s390x")),
)


def linux(name, suite, package, about, **more):
    """Linux on an emulated x86-64 without protection keys, as most have none."""
    more = {"processor": NO_KEYS, "command_line": SECRETMEM, "pace": EMULATED} | more
    return Target(name, about, f"kernel of Debian {suite}", "x86_64-unknown-linux-gnu", x86(suite, package), **more)


TARGETS = {
    target.name: target
    for target in (
        Target(
            "here",
            "Linux, x86-64",
            "the host of the lab itself",
            "x86_64-unknown-linux-gnu",
        ),
        linux(
            "x86_64-pkeys",
            "trixie",
            "linux-image-cloud-amd64",
            "Linux, x86-64 with protection keys",
            processor=WITH_KEYS,
            # In this machine every key hold is to be had, and memory can be said to have failed.
            always=(r"(Pkey|Secretmem) is not to be had", r"skipped: (Pkey|Secretmem|Hardware)", r"no (protection keys|MADV_HWPOISON)"),
            subset={
                "holds": ("pkey", "protection_key", "secretmem", "key_in_place"),
                "epochs": ("a_refresh_makes_a_new_key", "at_most_four_keys", "a_purge_ends_everything"),
                "lost": ("a_key_under", "a_key_in_secretmem", "a_view_of", "lost_at_rest", "an_error_is_told"),
            },
            subset_stress=("pkey",),
            subset_doctor=("--strict", "--store", "plain,sealed-pkey"),
            subset_instructions=("sealed.pkey.read.32", 700),
        ),
        linux("x86_64-5.10", "bullseye", "linux-image-amd64", "Linux 5.10, x86-64"),
        linux("x86_64-6.1", "bookworm", "linux-image-amd64", "Linux 6.1, x86-64"),
        linux("x86_64-6.12", "trixie", "linux-image-cloud-amd64", "Linux 6.12, x86-64"),
        linux("x86_64-newest", "sid", "linux-image-cloud-amd64", "newest Linux, x86-64"),
        Target(
            "arm64-4k",
            "Linux, arm64, pages of 4 KiB",
            "kernel of Debian trixie",
            "aarch64-unknown-linux-gnu",
            arm("linux-image-cloud-arm64"),
            processor=ARM,
            command_line=SECRETMEM,
            pace=EMULATED,
        ),
        Target(
            "arm64-16k",
            "Linux, arm64, pages of 16 KiB",
            "kernel of Debian trixie",
            "aarch64-unknown-linux-gnu",
            arm("linux-image-arm64-16k"),
            processor=ARM,
            command_line=SECRETMEM,
            pace=EMULATED,
            subset={"basics": (), "holds": ()},
        ),
        Target(
            "ppc64el-64k",
            "Linux, ppc64el, pages of 64 KiB",
            "kernel of Debian",
            "powerpc64le-unknown-linux-gnu",
            PPC,
            processor="POWER9",
            pace=EMULATED,
        ),
        Target(
            "s390x",
            "Linux, s390x (big-endian)",
            "kernel of Debian",
            "s390x-unknown-linux-gnu",
            S390,
            command_line=SECRETMEM,
            pace=EMULATED,
        ),
        Target("i686", "Linux, 32-bit x86", "on a 64-bit kernel", "i686-unknown-linux-gnu", pace=CROSS),
        Target("musl", "Linux, x86-64, musl", "static", "x86_64-unknown-linux-musl", pace=CROSS),
        Target(
            "armv7",
            "Linux, armv7 (32-bit), on a 64-bit kernel",
            "kernel of Debian trixie for arm64",
            "armv7-unknown-linux-gnueabihf",
            arm("linux-image-cloud-arm64"),
            processor=ARM,
            command_line=SECRETMEM,
            pace=EMULATED,
        ),
        Target(
            "windows-wine",
            "Windows, x86-64, by Wine",
            "under Wine, not on Windows itself",
            "x86_64-pc-windows-gnu",
            pace=CROSS,
            wine=True,
            subset={"basics": (), "windows": (), "linger": (), "diagnostics": (), "forgotten": (), "events": ()},
            limits="Wine is not Windows: quotas of working sets and a second VirtualUnlock differ",
        ),
        Target("macos-arm64", "macOS, arm64", "", "aarch64-apple-darwin", check=True),
        Target("macos-x86_64", "macOS, x86-64", "", "x86_64-apple-darwin", check=True),
        Target("freebsd", "FreeBSD, x86-64", "", "x86_64-unknown-freebsd", check=True),
        Target("openbsd", "OpenBSD, x86-64", "", "x86_64-unknown-openbsd", check=True),
        Target("netbsd", "NetBSD, x86-64", "", "x86_64-unknown-netbsd", check=True),
        Target("windows-msvc", "Windows, x86-64, Microsoft's linker", "", "x86_64-pc-windows-msvc", check=True),
    )
}
