//! What Windows offers, limits and shows.

use securememory::Host;

use super::{Page, Tone, words};

pub(super) fn offers(page: &mut Page, host: &Host) {
    page.heading("What the machine grants");
    page.feature("memory locks", host.lock, "VirtualLock: pages stay out of the page file");
    page.feature(
        "report exclusion",
        host.dont_dump,
        "WerRegisterExcludedMemoryBlock: left out of Windows Error Reporting",
    );
}

pub(super) fn limits(page: &mut Page, host: &Host) {
    page.heading("Limits, and how to raise them");
    let lockable = format!(
        "{} are the minimum of the working set, {} locked by the library",
        words::limit(host.memlock_soft),
        host.locked_now.map_or_else(|| "an unknown amount".to_owned(), words::bytes)
    );
    page.row("lockable memory", Tone::Plain, &lockable);
    page.more(
        "the library raises it by what it locks (SetProcessWorkingSetSize); where that is refused, the user needs the \
         right to increase a working set (SeIncreaseWorkingSetPrivilege), or its job object a higher limit",
    );
}

pub(super) fn eyes(page: &mut Page, _: &Host) {
    page.heading("Who may see memory");
    page.row("other processes", Tone::Plain, "those of the same user and of administrators");
    page.more("they open it with PROCESS_VM_READ, as a debugger does; SECURITY.md says what they find");
    page.row("crash reports", Tone::Plain, "Windows Error Reporting leaves out what is excluded");
    page.more("who writes a dump with MiniDumpWriteDump, Task Manager among them, is not bound by that");
    page.row("page file", Tone::Plain, "not asked for; locked pages are not written to it");
}
