"""What the lab needs from Debian: packages that are installed, and files of packages that are not."""

import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile

from common import Failure, Skip, call, locked, tell

KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
WAIT = ["-o", "DPkg::Lock::Timeout=600"]
updated = False


def here(what):
    """Whether a program, or a file by its path, is there."""
    return pathlib.Path(what).exists() if what.startswith("/") else shutil.which(what) is not None


def need(wanted):
    """Installs what is missing, where that is possible: programs or paths, each with its package."""
    global updated
    missing = {what: package for what, package in wanted.items() if not here(what)}
    if not missing:
        return
    names = ", ".join(f"{what} (package {package})" for what, package in missing.items())
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Skip(f"not here: {names}; and not root on Debian to install them")
    packages = sorted({name for package in missing.values() for name in package.split()})
    tell(f"installing {', '.join(packages)}")
    environment = os.environ | QUIET
    if not updated:
        call(["apt-get", *WAIT, "update", "-qq"], 300, Skip(f"not here: {names}; apt-get update"), env=environment)
        updated = True
    install = ["apt-get", *WAIT, "install", "-y", "-qq", "--no-install-recommends", *packages]
    call(install, 900, Skip(f"not here: {names}; apt-get install"), env=environment)
    still = [what for what in missing if not here(what)]
    if still:
        raise Skip(f"not here, also not after installing {', '.join(packages)}: {', '.join(still)}")
    tell("installed")


def mirror():
    """The Debian mirror that this system uses."""
    lists = [pathlib.Path("/etc/apt/sources.list"), *sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*"))]
    for path in lists:
        text = path.read_text(errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            found = re.search(r"https?://\S+/debian/?(?=\s|$)", line)
            if found and not line.lstrip().startswith("#"):
                return found.group()
    raise Skip("no Debian mirror in /etc/apt/sources.list and sources.list.d")


def fetch(suite, architecture, package, member, place, name):
    """A file out of a Debian package, from the cache or through an apt of its own: the system's is not touched.

    `member` is a regular expression for its path in the package.
    """
    with locked(place):
        result = place / name
        return result if result.exists() else fetched(suite, architecture, package, member, place, result)


def fetched(suite, architecture, package, member, place, result):
    """The same where it is not in the cache."""
    if not shutil.which("apt-get") or not KEYRING.exists():
        raise Skip(f"no {result.name} in {place}, and no apt with {KEYRING} to fetch it")
    no = f"{package} of {suite} for {architecture} cannot be fetched"
    environment = own_apt(suite, architecture, place, no)
    # A package of a kernel is empty and names the one that has the image, which since Linux 7 does the same once more.
    for further in ("image", "binary"):
        listed = call(["apt-cache", "depends", package], 60, Skip(no), env=environment).decode()
        real = re.search(rf"Depends: (linux-{further}-[0-9]\S+)", listed)
        package = real.group(1) if real else package
    with tempfile.TemporaryDirectory(dir=place) as work:
        tell(f"fetching {package} of {suite}")
        call(["apt-get", "download", "-qq", package], 600, Skip(no), env=environment, cwd=work)
        (archive,) = pathlib.Path(work).glob("*.deb")
        found = pathlib.Path(work) / "found"
        files = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
        with files, tarfile.open(fileobj=files.stdout, mode="r|") as entries:
            for entry in entries:
                if entry.isfile() and re.fullmatch(member, entry.name):
                    found.write_bytes(entries.extractfile(entry).read())
        if not found.exists():
            raise Failure(f"{archive.name} has nothing like {member}")
        found.chmod(0o755)
        found.rename(result)
    tell(f"fetched: {result.name}, from {archive.name}")
    return result


def own_apt(suite, architecture, place, no):
    """The environment of an apt with lists of its own."""
    root = place / f"apt-{suite}-{architecture}"
    environment = os.environ | QUIET | {"APT_CONFIG": f"{root}/apt.conf"}
    if (root / "updated").exists():
        return environment
    for part in ("lists/partial", "cache/archives/partial"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "status").write_text("")
    (root / "sources.list").write_text(f"deb [arch={architecture} signed-by={KEYRING}] {mirror()} {suite} main\n")
    (root / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{root}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{root}/lists";\n'
        f'Dir::State::status "{root}/status";\n'
        f'Dir::Cache "{root}/cache";\n'
        f'APT::Architectures {{ "{architecture}"; }};\n'
        'APT::Sandbox::User "";\n'
        # A mirror's index of a suite that moves may have run past its date; it is signed all the same.
        'Acquire::Check-Valid-Until "false";\n'
        'Acquire::Languages "none";\n'
        'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";\n'
    )
    tell(f"the packages of {suite}, {architecture}")
    call(["apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any"], 300, Skip(no), env=environment)
    (root / "updated").touch()
    return environment


def forget(place):
    """Lists are of use for one run only; what was taken from packages stays."""
    with locked(place):
        for root in place.glob("apt-*"):
            shutil.rmtree(root)
