"""How programs are built for each Rust target: who compiles and links, and which packages that takes."""

from dataclasses import dataclass, field

STATIC = "-Ctarget-feature=+crt-static"
# Debian's Rust of the current stable release comes with the source of the standard library, which is built anew for the
# target: so no target needs an installed one.
DEBIAN_RUST = {
    "/usr/bin/rustc": "rustc-web",
    "/usr/bin/cargo": "cargo-web",
    "/usr/lib/rustlib/src/rust/library/std/Cargo.toml": "rust-web-src",
}


@dataclass(frozen=True)
class Toolchain:
    """For one Rust target."""

    linker: str = ""  # none: what Rust takes by itself
    flags: tuple = ()
    packages: dict = field(default_factory=dict)  # programs or paths that are needed, each with its package
    zig: bool = False  # zig compiles what is C, and has what the system's C library declares
    no_c: bool = False  # nobody compiles what is C: for checks of types alone
    host: bool = False  # your own Rust for what it runs on; else Debian's, with a standard library built for the target


def cross(triplet, architecture):
    """A static Linux program by Debian's cross compiler."""
    compiler = f"{triplet}-gcc"
    return Toolchain(
        linker=compiler,
        flags=(STATIC,),
        packages={
            compiler: f"gcc-{triplet.replace('_', '-')}",
            f"/usr/{triplet}/lib/libc.a": f"libc6-dev-{architecture}-cross",
        },
    )


TOOLCHAINS = {
    # What `cargo test --workspace` and `cargo build --release` make here anyway; a machine gets the libraries with it.
    "x86_64-unknown-linux-gnu": Toolchain(host=True, packages={"cc": "gcc", "strip": "binutils"}),
    "aarch64-unknown-linux-gnu": cross("aarch64-linux-gnu", "arm64"),
    "powerpc64le-unknown-linux-gnu": cross("powerpc64le-linux-gnu", "ppc64el"),
    "s390x-unknown-linux-gnu": cross("s390x-linux-gnu", "s390x"),
    "i686-unknown-linux-gnu": cross("i686-linux-gnu", "i386"),
    "armv7-unknown-linux-gnueabihf": cross("arm-linux-gnueabihf", "armhf"),
    # Debian has no unwinder of its own for musl; LLVM's serves, but for one function of the GNU C library (see build.py).
    "x86_64-unknown-linux-musl": Toolchain(
        linker="musl-gcc",
        flags=(STATIC, "-Clink-self-contained=no", "-Crelocation-model=static", "-Clink-arg=-static", "-Lnative={libraries}"),
        packages={"musl-gcc": "musl-tools", "/usr/lib/llvm-14/lib/libunwind.a": "libunwind-14-dev", "cc": "gcc"},
    ),
    "x86_64-pc-windows-gnu": Toolchain(
        linker="x86_64-w64-mingw32-gcc",
        packages={"x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64-win32"},
    ),
    "aarch64-apple-darwin": Toolchain(zig=True),
    "x86_64-apple-darwin": Toolchain(zig=True),
    "x86_64-unknown-freebsd": Toolchain(zig=True),
    "x86_64-unknown-openbsd": Toolchain(no_c=True),
    "x86_64-unknown-netbsd": Toolchain(no_c=True),
    "x86_64-pc-windows-msvc": Toolchain(no_c=True),
}
