"""Builds the tests and the tool for a Rust target."""

import json
import os
import pathlib
import resource
import shlex
import shutil
import subprocess
import sys

from common import PROJECT, Failure, Skip, call, locked, tell
from packages import need
from toolchains import DEBIAN_RUST, TOOLCHAINS, Toolchain

# Smaller and faster programs: those of an emulated machine have everything in memory, and run ten times as slowly.
NOT_FOR_CROSS = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTUP_TOOLCHAIN")
PROFILE = {"OPT_LEVEL": "1", "DEBUG": "0", "STRIP": "symbols"}


def directory():
    return (pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or PROJECT / "target") / "lab").absolute()


def rust(triple):
    """The command `cargo` for a target, its first arguments and its environment; Skip where it is not to be had."""
    toolchain = TOOLCHAINS.get(triple, Toolchain())
    need(toolchain.packages)
    if toolchain.host:
        if not shutil.which("rustc") or not shutil.which("cargo"):
            raise Skip("no Rust here")
        said = call(["rustc", "-vV"], 60, Skip("rustc does not run")).decode()
        if f"host: {triple}" not in said.splitlines():
            raise Skip(f"the Rust here is not one for {triple}")
        return "cargo", [], os.environ
    need(DEBIAN_RUST)
    environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CROSS}
    environment |= {"CARGO_TARGET_DIR": str(directory()), "CARGO_INCREMENTAL": "0"}
    environment |= {f"CARGO_PROFILE_DEV_{name}": value for name, value in PROFILE.items()}
    # Without the first, the unstable option that builds a standard library is refused.
    environment |= {"RUSTC_BOOTSTRAP": "1", "RUSTC": "/usr/bin/rustc", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    name = triple.upper().replace("-", "_")
    libraries = musl_libraries() if "musl" in triple else ""
    environment[f"CARGO_TARGET_{name}_RUSTFLAGS"] = " ".join(toolchain.flags).format(libraries=libraries)
    if toolchain.linker:
        environment[f"CARGO_TARGET_{name}_LINKER"] = toolchain.linker
        environment[f"CC_{triple.replace('-', '_')}"] = toolchain.linker
    if toolchain.no_c:
        # Asked for an object and a library they make none, and say that all is well.
        environment |= {f"{tool}_{triple.replace('-', '_')}": "/bin/true" for tool in ("CC", "AR")}
        if triple.endswith("-msvc"):
            environment[f"AR_{triple.replace('-', '_')}"] = str(empty_library())
    return "/usr/bin/cargo", ["-Zbuild-std=std,panic_unwind,test", "--target", triple], environment


def empty_library():
    """A program that makes the library that Microsoft's is asked for, with nothing in it: it is looked for afterwards."""
    place = directory() / "msvc"
    place.mkdir(parents=True, exist_ok=True)
    program = place / "lib"
    program.write_text('#!/bin/sh\nfor part; do case "$part" in [-/][oO][uU][tT]:*) : > "${part#?????}";; esac; done\n')
    program.chmod(0o755)
    return program


def musl_libraries():
    """LLVM's unwinder, with the one function that musl lacks."""
    place = directory() / "musl"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy("/usr/lib/llvm-14/lib/libunwind.a", place)
    (place / "missing.c").write_text(
        "#include <stdarg.h>\n#include <stdio.h>\n"
        "int __fprintf_chk(FILE *file, int level, const char *format, ...) {\n"
        "    va_list arguments;\n    va_start(arguments, format);\n    (void)level;\n"
        "    int written = vfprintf(file, format, arguments);\n    va_end(arguments);\n    return written;\n}\n"
    )
    wrong = Failure("the library for musl cannot be made")
    call(["cc", "-c", "-U_FORTIFY_SOURCE", "-o", "missing.o", "missing.c"], 60, wrong, cwd=place)
    call(["ar", "r", "libunwind.a", "missing.o"], 60, wrong, cwd=place)
    return place


def spent():
    """Seconds that processors have worked for commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def build(triple, tests, tool):
    """Programs for a target: the tests with these names (None: all; the library's own are `lib`), and the tool.

    Gives their paths by name.
    """
    cargo, options, environment = rust(triple)
    common = [*options, "--quiet", "--message-format=json-render-diagnostics"]
    commands = []
    if tests is None or tests:
        chosen = ["--lib", "--tests"] if tests is None else []
        for name in sorted(tests or ()):
            chosen += ["--lib"] if name == "lib" else ["--test", name]
        # Natively the same as for the tests of the workspace, so that nothing is built twice.
        what = ["--package", "securememory"] if "--target" in options else ["--workspace"]
        commands.append([cargo, "test", "--no-run", *what, *common, *chosen])
    if tool:
        commands.append([cargo, "build", *([] if "--target" in options else ["--release"]), *common])
    found, before = {}, spent()
    for command in commands:
        tell("$ " + shlex.join(command))
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=PROJECT, env=environment, timeout=3600)
        if done.returncode != 0:
            raise Failure(f"the build for {triple} failed")
        for message in map(json.loads, done.stdout.splitlines()):
            of_library = message.get("manifest_path", "").endswith("crates/securememory/Cargo.toml")
            if message.get("executable") and (of_library or command[1] == "build"):
                name, kinds = message["target"]["name"], message["target"]["kind"]
                name = "tool" if "bin" in kinds else "lib" if "lib" in kinds else name
                found[name] = pathlib.Path(message["executable"])
    size = sum(path.stat().st_size for path in found.values()) >> 20
    tell(f"built {len(found)} programs for {triple}, {size} MiB, in {spent() - before:.0f} s of the processors' time")
    return found


def zig(place):
    """A directory with zig, as Python's packages have it, and with the command that lets cargo use it."""
    programs = place / "zig/bin"
    with locked(place):
        if not (programs / "cargo-zigbuild").exists():
            tell("installing zig")
            no = "zig cannot be had from Python's packages"
            call([sys.executable, "-m", "venv", str(place / "zig")], 120, Skip(no))
            call([str(programs / "pip"), "install", "--quiet", "ziglang", "cargo-zigbuild"], 600, Skip(no))
    return programs


def check(triple, place):
    """Type-checks the library and the tool; says what compiled the C."""
    cargo, options, environment = rust(triple)
    toolchain = TOOLCHAINS[triple]
    command = [cargo, "check"]
    if toolchain.zig:
        programs = zig(place)
        command = [str(programs / "cargo-zigbuild"), "check"]
        environment |= {"CARGO": cargo, "PATH": f"{programs}:{environment['PATH']}"}
    command += [*options, "--quiet", "--package", "securememory", "--package", "securememory-cli"]
    tell("$ " + shlex.join(command))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=PROJECT, env=environment, timeout=1800)
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        print("\n".join(f"    | {line}" for line in text.splitlines()[-60:]), flush=True)
        errors = [line for line in text.splitlines() if line.startswith("error")]
        raise Failure(errors[0] if errors else "cargo check failed")
    return "the C cipher was compiled by zig" if toolchain.zig else "the C cipher was not compiled"
