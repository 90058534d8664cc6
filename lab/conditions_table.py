"""Conditions that containers and hardened systems put a process into. `conditions` does the work; a new one is an entry here."""

from dataclasses import dataclass

USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--no-new-privs")
MIB = 1 << 20


@dataclass(frozen=True)
class Condition:
    """How a program comes into a condition, and by what it is seen that it is in it."""

    about: str
    prefix: tuple = ()  # before the program; {refuse} is the program that refuses calls, {place} a directory
    user: bool = True  # as an ordinary user, who may lock 8 MiB if nothing else is said; no: as root
    memlock: int = 8 * MIB
    press: str = ""  # what the test brings upon itself, see tests/conditions/press.rs
    # Each is kind, policy, a field of what is said (or `did.` and one of what is done), a regular expression: without this the
    # condition was not there, and nothing was shown.
    shows: tuple = ()
    refuses: tuple = ()  # regular expressions: what a test that needs what is refused says of it
    lacks: tuple = ()  # of NEEDS
    suite: bool = True  # the other tests are run too
    # "nothing": it says that nothing is to be had; "some": some attacks cannot be run, and it says so
    doctor: bool | str = True
    part: str = "long"  # `change`: in every run of .ci/run
    unreadable: bool = False  # the program's file may be run and not read


# Tests that take long, and are about what conditions do not change.
LONG = ("model", "shutdown", "wrong_key", "widened", "handler_object", "handler_stack", "second_copy", "turns")

# What cannot be tested where something lacks, by `BINARY::TEST`, and why, where no typed error of the library's tells it.
NEEDS = {
    "lock": (
        ("holds::the_key_in_place_never_comes_into_scratch", "it finds the key's page by its lock"),
        ("lost::(a_guarded_key_is_lost|under_abort_all_is_wiped.*)", "it finds the key's page by its lock"),
        ("events::all_is_told_at_its_level.*", "a refusal is told once in a process, and has been told"),
        ("preflight::the_store_is_the_one_that_the_vault_would_take", "preflight says that nothing can be locked"),
        ("fork_off_faults::memory_is_locked_again_in_the_child", "it is about memory that is locked"),
        ("budget::at_the_real_limit_as_well", "it is about memory that is locked"),
        ("events::near_the_limit_on_locked_memory.*", "it is about memory that is locked"),
    ),
    "proc": (
        ("lib::os::room::tests::all_of_it_is_known_where_there_is_proc", "it is about what /proc tells"),
        ("lib::os::tests::numbers_are_those_of_process_and_thread", "it is about what /proc tells"),
        ("harden::(after_a_crash|memory_of_the_library|what_fails_is_told).*", "it is about what /proc tells"),
        ("preflight::more_secrets_never_need_less", "all of it has to be known"),
    ),
    "files": (
        ("fork::.*", "it asks for a key in two shares"),
        ("fork_inherited::a_purge_of_the_parents_beside_a_fork", "it is held up in a call for a file"),
        ("fork_off_processes::programs_get_nothing", "it is about files with shares"),
        ("chaining::real_faults_.*", "its program makes a file of its own, to cut it"),
        ("dying_children::a_file_of_the_hosts_.*", "it is about a file under the number of a share's"),
        ("harden::after_a_crash_there_is_no_core.*", "a core is a file"),
        ("events::all_is_told_at_its_level.*", "it knows which hold is to be taken"),
        ("holds::(a_refused_allocation_of_the|secretmem_without_lockable).*", "it knows which hold is to be taken"),
        ("lost::(a_key_in_secretmem|a_guarded_key)_is_lost", "it makes a file of its own, to cut it"),
        ("many::(all_are_made_or_none|one_fetch_serves_many)", "it counts reads of a file with a share"),
        ("read_path::.*", "it is about the one call that reads a share"),
        ("lib::enclave::tests::renewals_stay_above.*", "it is about renewals of shares"),
        ("lib::os::capability::tests::a_probe_finds_what_every_kernel.*", "every kernel has such files"),
        ("lib::os::linux::share_file::tests::.*", "it is about such files"),
    ),
    "room": (
        ("fork_off_faults::memory_is_locked_again_in_the_child", "it locks more than may be"),
        ("lost::a_paged_secret_is_lost.*", "what replaces a lost page is locked beside it, which is more than may be"),
    ),
    "wiped": (
        ("holds::the_key_in_place_never_comes_into_scratch", "it finds the key's page by its being wiped on fork"),
        ("stream::plaintext_is_in_scratch_and_nowhere_else", "it knows scratch by its being wiped on fork"),
        ("read_path::.*", "each read asks for the number of the process besides"),
        ("fork::a_view_alive_across_a_fork_ends_silently_in_the_child", "its child looks at memory that is not there"),
        (
            "fork_inherited::(forks_within_with|views_writers_and_streams_of_all_threads)",
            "its child looks at memory that is not there",
        ),
    ),
}


def refuse(calls, error):
    return ("{refuse}", f"{calls}:{error}")


def mounted(script):
    """In a namespace of mounts where `script` has been run."""
    return ("unshare", "--mount", "sh", "-ec", script + '\nexec "$@"', "sh")


ALL = "memfd_create,memfd_secret,mlock,mlock2,madvise,pkey_alloc"
NO_PROC = "mount -t tmpfs none /proc"
# Devices that programs cannot do without, and no other.
NO_URANDOM = "\n".join(
    ("mount -t tmpfs none /mnt", "for one in null zero full; do touch /mnt/$one; mount --bind /dev/$one /mnt/$one; done",
     "mount --rbind /mnt /dev")
)
# As container engines do it.
MASKED = "\n".join(
    ("mount -t proc proc /proc",
     "for one in kcore keys timer_list sched_debug; do [ ! -e /proc/$one ] || mount --bind /dev/null /proc/$one; done",
     "for one in acpi scsi; do [ ! -d /proc/$one ] || mount -t tmpfs -o ro none /proc/$one; done",
     "for one in bus fs irq sys; do mount --bind /proc/$one /proc/$one; mount -o remount,bind,ro /proc/$one; done")
)

NO_LOCK = r"call: Mlock, errno: (1|38)\b|call: Mmap, errno: 11\b"
# By name: the calls; how the condition shows; what tests are told that need them; what else cannot be tested.
REFUSED_CALLS = {
    "memfd_create": (
        "memfd_create", (("split", "default", "stepped_down", "memfd_create"),), (r"call: MemfdCreate, errno: (1|38)\b", r"memfd_create: .*\((EPERM|ENOSYS)"),
        ("files",),
    ),
    "memfd_secret": (
        "memfd_secret", (("secretmem", "default", "stepped_down", "memfd_secret"),), (r"call: MemfdSecret, errno: (1|38)\b",),
        (),
    ),
    "mlock": (
        "mlock,mlock2", (("auto", "default", "lock", "refused"), ("auto", "strict", "error", "mlock")), (NO_LOCK,), ("lock",)
    ),
    "madvise": ("madvise", (("auto", "prefer", "fork", "refused"), ("auto", "default", "error", "madvise")), (), ()),
    "pkey_alloc": (
        "pkey_alloc", (("pkey", "default", "stepped_down", "pkey_alloc"),), (r"call: PkeyAlloc, errno: (1|38)\b",), ()
    ),
    "getrandom": ("getrandom", (("auto", "default", "error", "getrandom"),), (), ()),
    "all": (ALL, (("auto", "prefer", "hold", "Guarded"), ("auto", "default", "error", "madvise")), (), ()),
}

CONDITIONS = {
    "root": Condition("root, who may lock any amount", user=False, shows=(("auto", "default", "lock", "in force"),)),
    "user": Condition("an ordinary user, 8 MiB lockable", shows=(("auto", "default", "lock", "in force"),), part="change"),
    "user-64k": Condition(
        "an ordinary user, 64 KiB lockable", memlock=64 << 10, shows=(("auto", "strict", "lock", "in force"),),
        # Several vaults at a time are more than that, secretmem included.
        lacks=("room",), refuses=(r"call: (Mlock|Mmap), errno: (12|11)\b", "has nearly locked as much memory as it may"), part="change",
    ),
    "user-0": Condition(
        "an ordinary user, nothing lockable",
        memlock=0,
        shows=(("auto", "default", "lock", "refused"), ("auto", "strict", "error", "mlock")),
        refuses=(NO_LOCK,),
        lacks=("lock",),
        part="change",
    ),
    **{
        f"{name}-{error.lower()}": Condition(
            f"a filter refuses {calls.replace(',', ', ')} with {error}",
            refuse(calls, error),
            refuses=told,
            lacks=lacks,
            shows=(*shows, *((kind, policy, field, error) for kind, policy, field, _ in shows if field == "error")),
            # Nothing at all can be made without random bytes, nor by default where a child would have all.
            suite=name not in ("getrandom", "madvise", "all"),
            doctor="nothing" if name in ("madvise", "all") else name != "getrandom",
            part="change" if (name, error) in (("all", "EPERM"), ("getrandom", "ENOSYS"), ("madvise", "ENOSYS")) else "long",
        )
        for error in ("EPERM", "ENOSYS")
        for name, (calls, shows, told, lacks) in REFUSED_CALLS.items()
    },
    "gvisor": Condition(
        "MADV_WIPEONFORK is not known, as in gVisor",
        refuse("wipe_on_fork", "EINVAL"),
        # To tests that have the other way refused as well.
        refuses=(r"call: Madvise, errno: 22\b",),
        lacks=("wiped",),
        shows=(("auto", "default", "fork", "in force"), ("auto", "default", "did.child", "gone")),
        part="change",
    ),
    "no-fork-advice": Condition(
        "neither MADV_WIPEONFORK nor MADV_DONTFORK is known",
        refuse("wipe_on_fork,dont_fork", "EINVAL"),
        shows=(("auto", "prefer", "did.child", "kept, secret refused"),),
        suite=False,
        doctor="nothing",
    ),
    "user-namespace": Condition(
        "root of a user namespace of its own", ("unshare", "--user", "--map-root-user"), user=False,
        shows=(("auto", "default", "lock", "in force"),),
    ),
    "user-namespace-nobody": Condition(
        "a user namespace in which the user has no name", ("unshare", "--user"), user=False,
        shows=(("auto", "default", "lock", "in force"),),
    ),
    "namespaces": Condition(
        "namespaces of mounts, processes, users, network, IPC and host names",
        ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--mount-proc"),
        user=False,
        shows=(("auto", "default", "lock", "in force"),),
        part="change",
    ),
    "no-proc": Condition(
        "/proc is not mounted", mounted(NO_PROC), 
        refuses=("needs /proc", r"no /proc\b.*", "cannot access '/proc.*'", "kind: NotFound"), lacks=("proc",), shows=(("auto", "default", "lock", "unverified"),), doctor=False,
        part="change",
    ),
    "hidepid": Condition(
        "/proc shows a user its own processes only (hidepid=2)", mounted("mount -t proc -o hidepid=2 proc /proc"),
        shows=(("auto", "default", "lock", "in force"),),
    ),
    "masked-proc": Condition(
        "/proc is masked and partly read-only, as in a container", mounted(MASKED),
        shows=(("auto", "default", "lock", "in force"),),
    ),
    "no-urandom": Condition(
        "/dev has neither urandom nor random", mounted(NO_URANDOM), shows=(("auto", "default", "lock", "in force"),),
        part="change",
    ),
    "no-random-at-all": Condition(
        # Not from the start, since the standard library's tests cannot do without.
        "neither /dev/urandom nor getrandom", mounted(NO_URANDOM), press="refuse:getrandom:EPERM",
        shows=(("auto", "default", "error", "getrandom"),), suite=False, doctor=False,
    ),
    "descriptors": Condition(
        "no descriptor is left", press="descriptors", shows=(("split", "default", "stepped_down", "EMFILE"),), suite=False,
        doctor=False, part="change",
    ),
    "mappings": Condition(
        "vm.max_map_count is reached", press="mappings",
        shows=(("paged", "default", "error_kind", "Limit"), ("paged", "default", "hint", "max_map_count")), suite=False,
        doctor=False, part="change",
    ),
    "address-space": Condition(
        "the limit on address space is reached", press="address-space",
        shows=(("paged", "default", "error_kind", "Limit"), ("paged", "default", "hint", "ulimit -v")), suite=False,
        doctor=False, part="change",
    ),
    "files": Condition(
        "no file may be written to (RLIMIT_FSIZE 0)", ("prlimit", "--fsize=0:0"),
        shows=(("split", "default", "stepped_down", "EFBIG"),),
        refuses=(r"call: Ftruncate, errno: 27\b", r"ftruncate: .*\(EFBIG"), lacks=("files",), doctor="some",
        part="change",
    ),
    "few-descriptors": Condition(
        "32 descriptors", ("prlimit", "--nofile=32:32"), shows=(("auto", "default", "lock", "in force"),), suite=False,
        doctor=False,
    ),
    "not-dumpable": Condition(
        "PR_SET_DUMPABLE 0", press="not-dumpable", shows=(("auto", "default", "lock", "in force"),), suite=False,
        doctor=False, part="change",
    ),
    "unreadable": Condition(
        "the program's file may not be read, so that the process is not dumpable", unreadable=True,
        shows=(("auto", "default", "lock", "in force"),), suite=False, doctor=False,
    ),
    **{
        f"memfd-noexec-{level}": Condition(
            f"vm.memfd_noexec is {level}",
            ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec",
             f'echo {level} > /proc/sys/vm/memfd_noexec; exec "$@"', "sh"),
            shows=(("split", "default", "hold", "Split"),),
        )
        for level in (1, 2)
    },
    "memory-group": Condition(
        "a control group (version 1) with 64 MiB of memory",
        ("sh", "-ec", 'echo $$ > {place}/cgroup.procs; exec "$@"', "sh"),
        shows=(("auto", "default", "lock", "in force"),), suite=False, doctor=False,
    ),
    "tight": Condition(
        "nothing lockable, no /proc, and a filter that refuses " + ALL.replace(",", ", "),
        (*mounted(NO_PROC), *refuse(ALL, "EPERM")), memlock=0,
        shows=(("auto", "prefer", "lock", "refused"), ("auto", "default", "error", "madvise")), suite=False, doctor=False,
        part="change",
    ),
}
