"""Jobs besides the suite, on machines like those of targets.py: longer, or with something taken away."""

from dataclasses import dataclass, replace

from jobs import TEST, Job, stress
from targets import TARGETS, Target


@dataclass(frozen=True)
class Recipe:
    """Jobs that share one start of a machine."""

    about: str
    target: Target
    jobs: tuple


KEYS = TARGETS["x86_64-pkeys"]
# A test that finds nothing to do passes; here that counts as a failure.
RAN = (r"test result: ok\. [1-9]",)

# Settings of a whole machine; where the process cannot be looked at from outside, as `conditions` does it.
SAID_AND_DONE = ("--exact", "what_is_said_is_what_is_done", "--nocapture")


def setting(name, *values):
    """What the library says and does under each value of a setting."""
    return tuple(
        Job(
            f"{name.partition('/')[2]}-{value}",
            "conditions",
            SAID_AND_DONE,
            environment=(("SECUREMEMORY_CONDITIONS_PRESS", f"sysctl:{name}={value}"),),
            says=RAN,
            never=(r"no such condition here",),
        )
        for value in values
    )


RECIPES = {
    "conditions": Recipe(
        about="what is said and done under vm.memfd_noexec 1 and 2, and with strict accounting of memory",
        target=KEYS,
        jobs=(
            *setting("vm/overcommit_memory", 2),
            Job(
                "strict-accounting",
                "preflight",
                (*TEST, "memory_that_the_kernel_promises"),
                environment=(("SECUREMEMORY_STRICT_ACCOUNTING", "1"),),
                says=RAN,
                never=(r"SKIPPED",),
                seconds=120,
            ),
            # Not to be set back: the kernel refuses a lower value.
            *setting("vm/memfd_noexec", 1, 2),
        ),
    ),
    "stress": Recipe(
        about="a minute of stress on each key hold, with memory protection keys",
        target=KEYS,
        jobs=tuple(stress(hold, 60) for hold in ("pkey", "secretmem", "split", "guarded")),
    ),
    "stress-long": Recipe(
        about="ten minutes of stress with a protection key",
        target=KEYS,
        jobs=(stress("pkey", 600),),
    ),
    "stress-wine": Recipe(
        about="a minute of stress on each store of Windows, under Wine",
        target=TARGETS["windows-wine"],
        jobs=(stress("guarded", 60), stress("auto", 60, "paged")),
    ),
    "wrong-cipher": Recipe(
        about="a processor on which the wide AES instructions may compute wrongly, as QEMU 7.2's do: what it gets wrong is not used",
        target=replace(KEYS, processor="max,-cx16"),
        jobs=(Job("ciphers", "lib", (*TEST, "cipher::tests", "known_answer", "enclave::tests"), says=RAN),),
    ),
    "nokeys": Recipe(
        about="x86-64 without protection keys, AES instructions and memfd_secret: what is refused there",
        target=replace(KEYS, processor="Nehalem,-cx16", command_line="secretmem.enable=0"),
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
