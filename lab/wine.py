"""Wine, in a prefix of its own."""

import os
import re
import shutil

from common import Failure, Skip, call, locked, tell
from packages import need

# Rust's standard library imports this; Wine before 9 has it not, and a program without it ends at once and says nothing.
PRIMITIVES = """
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID data, ULONG length);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) { return SystemFunction036(data, (ULONG)length); }
"""
LOADER = "/usr/lib/wine/wine64"


def prepare(place):
    """The command that a program's path follows, and what is added to the environment."""
    need({LOADER: "wine64 wine", "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64-win32"})
    prefix = place / "wine"
    settings = {
        "WINEPREFIX": str(prefix),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "winedbg.exe=;mscoree=;mshtml=",
        "WINEARCH": "win64",
    }
    with locked(place):
        make(prefix, settings)
    return [LOADER], settings


def make(prefix, settings):
    """The prefix, if it is not there."""
    library = prefix / "drive_c/windows/system32/bcryptprimitives.dll"
    if not (prefix / "made").exists():
        shutil.rmtree(prefix, ignore_errors=True)
        tell("making a prefix for Wine")
        call([LOADER, "wineboot.exe", "--init"], 300, Failure("wineboot"), env=os.environ | settings)
        if not library.exists():
            source = prefix / "bcryptprimitives.c"
            source.write_text(PRIMITIVES)
            compile_ = ["x86_64-w64-mingw32-gcc", "-shared", "-O1", "-o", str(library), str(source), "-ladvapi32"]
            call(compile_, 60, Failure("bcryptprimitives.dll cannot be made"))
        (prefix / "made").touch()


def version():
    text = call([LOADER, "--version"], 60, Skip("Wine does not run"), env=os.environ | {"WINEDEBUG": "-all"}).decode()
    return "Wine " + re.search(r"wine-(\d+\.\d+)", text).group(1)
