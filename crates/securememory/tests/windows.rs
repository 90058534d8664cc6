//! What only Windows has: codes of exceptions, handlers that are added and removed, encryption of what is closed, the working
//! set. Wine, under which this may run, is no Windows: what it does not do is skipped, and said.
#![cfg(windows)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and touch what they must not"
)]

#[path = "common/windows.rs"]
mod common;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use common::read;
use securememory::fault::{self, AfterFault, FaultPolicy, FaultReport, Place, Uninstalled};
use securememory::signal::{Coordinator, Options, Outcome, Priority, Signal};
use securememory::testing::inject::{self, Plan};
use securememory::testing::{Ending, TestGuard, errno, own_process as case, skip};
use securememory::{Call, CallError, Error, Hold, Level, Policy, Protection, Secret, Store, Vault};
use windows_sys::Win32::Foundation as f;
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_POINTERS, RaiseException, RemoveVectoredExceptionHandler,
    SetUnhandledExceptionFilter,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Memory::{
    MEMORY_BASIC_INFORMATION, PAGE_NOACCESS, PAGE_READONLY, VirtualProtect, VirtualQuery,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, TerminateProcess};

/// Is the page of this address one that nobody may touch? (Under Wine ReadProcessMemory reads it all the same.)
fn is_closed(at: usize) -> bool {
    // SAFETY: numbers and pointers, for which zero is right; one structure is written.
    unsafe {
        let mut info: MEMORY_BASIC_INFORMATION = std::mem::zeroed();
        let len = size_of::<MEMORY_BASIC_INFORMATION>();
        assert_ne!(VirtualQuery(std::ptr::without_provenance(at), &raw mut info, len), 0);
        info.Protect == PAGE_NOACCESS
    }
}

/// Is this Wine? It says so by a function of its own.
fn is_wine() -> bool {
    // SAFETY: names that end with a zero; the library is part of every process.
    unsafe {
        GetProcAddress(GetModuleHandleA(c"ntdll.dll".as_ptr().cast()), c"wine_get_version".as_ptr().cast())
    }
    .is_some()
}

fn touch(at: usize) -> u8 {
    // SAFETY: none: it is to fail.
    unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() }
}

fn paged(bytes: &mut [u8]) -> Secret {
    let vault = Vault::builder().store(Store::Paged).build().unwrap();
    vault.secret().from_bytes(bytes).unwrap()
}

const VIOLATION: Ending = Ending::Code(f::EXCEPTION_ACCESS_VIOLATION);

// ---- faults ----

#[test]
fn a_stray_read_at_rest_ends_the_process_by_an_access_violation() {
    case("a_stray_read_at_rest_ends_the_process_by_an_access_violation").ending(VIOLATION).run(|| {
        let secret = paged(&mut [7; 32]);
        let at = secret.status().at_rest.unwrap().address;
        assert!(is_closed(at));
        fault::install(FaultPolicy::Abort).unwrap().keep();
        touch(at);
    });
}

#[test]
fn without_handling_it_is_the_same_code() {
    case("without_handling_it_is_the_same_code").ending(VIOLATION).run(|| {
        let secret = paged(&mut [7; 32]);
        touch(secret.status().at_rest.unwrap().address);
    });
}

static ASKED: AtomicU32 = AtomicU32::new(0);
static AT: AtomicUsize = AtomicUsize::new(0);

/// Ends the process with 1 plus what is wrong with the report, or 50.
fn ask(report: &FaultReport) -> AfterFault {
    let right = [
        report.signal == f::EXCEPTION_ACCESS_VIOLATION,
        report.address == AT.load(Ordering::SeqCst),
        matches!(report.place, Place::Overflow { .. }),
        report.access == fault::Access::Write,
    ];
    let wrong = right.iter().position(|right| !right);
    std::process::exit(wrong.map_or(50, |index| 1 + index as i32));
}

#[test]
fn the_report_tells_what_and_where() {
    case("the_report_tells_what_and_where").ending(Ending::Code(50)).run(|| {
        let secret = Vault::builder().build().unwrap().secret().from_bytes(&mut [7; 32]).unwrap();
        // SAFETY: it ends the process, and nothing comes after it.
        fault::install(unsafe { FaultPolicy::call(ask) }).unwrap().keep();
        secret
            .with(|bytes| {
                let page = securememory::Host::probe().page_size;
                let end = (bytes.as_ptr().addr() + bytes.len()).next_multiple_of(page);
                AT.store(end, Ordering::SeqCst);
                // SAFETY: none: it is to fail.
                unsafe { std::ptr::with_exposed_provenance_mut::<u8>(end).write_volatile(1) };
            })
            .unwrap();
    });
}

/// What a handler found of a view after the fault; it ends the process.
unsafe extern "system" fn after_us(info: *const EXCEPTION_POINTERS) -> i32 {
    // SAFETY: what the system calls it with.
    let code = unsafe { (*(*info).ExceptionRecord).ExceptionCode };
    let found = read(AT.load(Ordering::SeqCst), 32).expect("the view is open");
    let wiped = found.iter().filter(|&&byte| byte == 0xA5).count() < 8;
    std::process::exit(if wiped && code == f::EXCEPTION_ACCESS_VIOLATION { 60 } else { 61 });
}

#[test]
fn views_are_overwritten_before_those_that_were_there_are_asked() {
    let name = "views_are_overwritten_before_those_that_were_there_are_asked";
    case(name).ending(Ending::Code(60)).run(|| {
        // SAFETY: it ends the process.
        unsafe { SetUnhandledExceptionFilter(Some(after_us)) };
        fault::install(FaultPolicy::Abort).unwrap().keep();
        let secret = Vault::builder().build().unwrap().secret().from_bytes(&mut [0xA5; 32]).unwrap();
        let view = secret.view().unwrap();
        AT.store(view.as_ptr().addr(), Ordering::SeqCst);
        let page = securememory::Host::probe().page_size;
        touch((view.as_ptr().addr() + view.len()).next_multiple_of(page));
    });
}

#[test]
fn what_nobody_handles_wipes_and_ends_with_its_own_code() {
    let name = "what_nobody_handles_wipes_and_ends_with_its_own_code";
    case(name).ending(Ending::Code(60)).run(|| {
        // SAFETY: it ends the process, with 60 where the view is wiped.
        unsafe { SetUnhandledExceptionFilter(Some(after_us)) };
        fault::install(FaultPolicy::Abort).unwrap().keep();
        let secret = Vault::builder().build().unwrap().secret().from_bytes(&mut [0xA5; 32]).unwrap();
        let view = secret.view().unwrap();
        AT.store(view.as_ptr().addr(), Ordering::SeqCst);
        // Not memory of ours.
        touch(16);
    });
}

#[test]
fn what_nobody_handles_ends_with_its_own_code() {
    let division = Ending::Code(f::EXCEPTION_INT_DIVIDE_BY_ZERO);
    case("what_nobody_handles_ends_with_its_own_code").ending(division).run(|| {
        fault::install(FaultPolicy::Abort).unwrap().keep();
        // SAFETY: it ends the process.
        unsafe { RaiseException(f::EXCEPTION_INT_DIVIDE_BY_ZERO.cast_unsigned(), 0, 0, std::ptr::null()) };
    });
}

/// Goes on, where it is not an access.
unsafe extern "system" fn goes_on(info: *mut EXCEPTION_POINTERS) -> i32 {
    ASKED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: what the system calls it with.
    let code = unsafe { (*(*info).ExceptionRecord).ExceptionCode };
    if code == f::EXCEPTION_INT_DIVIDE_BY_ZERO { -1 } else { 0 }
}

#[test]
fn others_handle_what_is_theirs_and_only_ours_is_removed() {
    case("others_handle_what_is_theirs_and_only_ours_is_removed").run(|| {
        let raise = || {
            // SAFETY: it is handled below.
            unsafe {
                RaiseException(f::EXCEPTION_INT_DIVIDE_BY_ZERO.cast_unsigned(), 0, 0, std::ptr::null())
            };
        };
        // SAFETY: it goes on with what is raised here.
        let before = unsafe { AddVectoredExceptionHandler(1, Some(goes_on)) };
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        assert_eq!(fault::install(FaultPolicy::Abort).err(), Some(Error::AlreadyInstalled));
        // SAFETY: as above. This one is asked before ours.
        let after = unsafe { AddVectoredExceptionHandler(1, Some(goes_on)) };
        raise();
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        // SAFETY: what was added.
        assert_ne!(unsafe { RemoveVectoredExceptionHandler(after) }, 0);
        raise();
        assert_eq!(ASKED.load(Ordering::SeqCst), 2, "through ours, to the one before");
        let secret = Vault::builder().build().unwrap().secret().from_bytes(&mut [1; 8]).unwrap();
        assert_eq!(secret.with(<[u8]>::len), Ok(8), "nothing was wiped");
        assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
        raise();
        assert_eq!(ASKED.load(Ordering::SeqCst), 3);
        // SAFETY: what was added.
        assert_ne!(unsafe { RemoveVectoredExceptionHandler(before) }, 0);
        assert_eq!(fault::install(FaultPolicy::Abort).unwrap().uninstall(), Ok(Uninstalled::Restored));
    });
}

#[test]
fn the_filter_that_was_there_is_there_again() {
    case("the_filter_that_was_there_is_there_again").run(|| {
        type Filter = unsafe extern "system" fn(*const EXCEPTION_POINTERS) -> i32;
        let theirs: Filter = after_us;
        // SAFETY: not called here.
        let set = |filter| unsafe { SetUnhandledExceptionFilter(filter) };
        let first = set(Some(theirs));
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
        let found = set(first);
        assert_eq!(found.map(|filter| filter as usize), Some(theirs as usize));
        // Somebody above ours stays.
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        let ours = set(Some(theirs));
        assert_eq!(guard.uninstall(), Ok(Uninstalled::Dormant));
        assert_eq!(set(ours).map(|filter| filter as usize), Some(theirs as usize));
        set(first);
    });
}

/// Called by the loader after the library's own entry, whose section comes before: ends the process with what it found.
// SAFETY: the section has addresses of functions of this type, and only those.
#[used]
#[unsafe(link_section = ".CRT$XLYZ")]
static LAST: unsafe extern "system" fn(*mut std::ffi::c_void, u32, *mut std::ffi::c_void) = at_the_end;

unsafe extern "system" fn at_the_end(_: *mut std::ffi::c_void, reason: u32, _: *mut std::ffi::c_void) {
    const PROCESS_DETACH: u32 = 0;
    let at = AT_EXIT.load(Ordering::SeqCst);
    if reason == PROCESS_DETACH && at != 0 {
        // SAFETY: a view that was forgotten, so that it is open; then the end.
        unsafe {
            let found = std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(at), 32);
            let wiped = found.iter().filter(|&&byte| byte == 0xA5).count() < 8;
            TerminateProcess(GetCurrentProcess(), if wiped { 70 } else { 71 });
        }
    }
}

static AT_EXIT: AtomicUsize = AtomicUsize::new(0);

/// Ends the process in order, with a view open.
fn exit_with_a_view() {
    if is_wine() {
        skip(
            "Wine tells no entry of a program's own that the process ends, on which wiping at an exit relies",
        );
    }
    let secret = Vault::builder().build().unwrap().secret().from_bytes(&mut [0xA5; 32]).unwrap();
    let view = secret.view().unwrap();
    AT_EXIT.store(view.as_ptr().addr(), Ordering::SeqCst);
    std::process::exit(72);
}

#[test]
fn an_exit_wipes() {
    case("an_exit_wipes").ending(Ending::Code(70)).run(|| {
        fault::install(FaultPolicy::Abort).unwrap().keep();
        exit_with_a_view();
    });
}

#[test]
fn an_exit_wipes_nothing_where_nobody_asked_for_it() {
    case("an_exit_wipes_nothing_where_nobody_asked_for_it").ending(Ending::Code(71)).run(exit_with_a_view);
}

// ---- what is closed ----

/// Is the encryption of closed pages in force here?
fn encrypts(vault: &Vault) -> bool {
    let refused = vault.secret().random(16).unwrap().status().protections.lock.refused;
    refused.is_none_or(|cause| cause.call != Call::ProtectMemory)
}

#[test]
fn a_key_and_a_paged_secret_at_rest_are_closed_and_encrypted() {
    case("a_key_and_a_paged_secret_at_rest_are_closed_and_encrypted").run(|| {
        let vault = Vault::builder().store(Store::Paged).build().unwrap();
        let secret = vault.secret().from_bytes(&mut [0x5A; 64]).unwrap();
        let at = secret.status().at_rest.unwrap().address;
        assert!(is_closed(at));
        let page = at & !(securememory::Host::probe().page_size - 1);
        let open = || {
            let mut before = 0;
            // SAFETY: a thief opens a page that is not his.
            let opened = unsafe {
                VirtualProtect(std::ptr::with_exposed_provenance(page), 1, PAGE_READONLY, &raw mut before)
            };
            assert_ne!(opened, 0);
            read(at, 64).expect("it is open")
        };
        if !encrypts(&vault) {
            assert_eq!(open(), [0x5A; 64], "then it is not claimed that it is encrypted");
            skip("CryptProtectMemory does nothing here: what is closed is not encrypted, and not said to be locked");
        }
        let found = open();
        assert!(found.iter().filter(|&&byte| byte == 0x5A).count() < 16, "{found:x?}");
        assert_eq!(secret.with(|bytes| bytes == [0x5A; 64]), Ok(true));
        assert!(is_closed(at), "closed again");
    });
}

#[test]
fn where_what_is_closed_cannot_be_encrypted_a_required_lock_is_refused() {
    case("where_what_is_closed_cannot_be_encrypted_a_required_lock_is_refused").run(|| {
        let _plan = inject::fail(Call::ProtectMemory, Plan::Always { errno: errno::EPERM });
        let required = Vault::builder().store(Store::Paged).policy(Policy::new().lock(Level::Require));
        let outcome = required.build().and_then(|vault| vault.secret().random(16));
        let Err(Error::Refused { protection: Protection::Lock, cause }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(cause.call, Call::ProtectMemory);
        let secret = Vault::builder().store(Store::Paged).build().unwrap().secret().random(16).unwrap();
        let lock = secret.status().protections.lock;
        assert_eq!((lock.got, lock.refused.map(|cause| cause.call)), (false, Some(Call::ProtectMemory)));
        assert_eq!(secret.with(<[u8]>::len), Ok(16));
    });
}

#[test]
fn a_refused_decryption_is_an_error_and_leaves_it_closed() {
    case("a_refused_decryption_is_an_error_and_leaves_it_closed").run(|| {
        let vault = Vault::builder().store(Store::Paged).build().unwrap();
        if !encrypts(&vault) {
            skip("CryptProtectMemory does nothing here");
        }
        let secret = vault.secret().from_bytes(&mut [3; 16]).unwrap();
        let plan = inject::fail(Call::UnprotectMemory, Plan::Nth { n: 1, errno: errno::EPERM });
        let refused = secret.view().err();
        assert!(
            matches!(refused, Some(Error::System(cause)) if cause.call == Call::UnprotectMemory),
            "{refused:?}"
        );
        drop(plan);
        assert!(is_closed(secret.status().at_rest.unwrap().address));
        assert_eq!(secret.with(|bytes| bytes == [3; 16]), Ok(true));
    });
}

// ---- what Windows lacks, and limits ----

#[test]
fn holds_that_are_not_there_are_refused_by_their_names() {
    let _guard = TestGuard::new();
    for (hold, call) in [
        (Hold::Split, Call::MemfdCreate),
        (Hold::Pkey, Call::PkeyAlloc),
        (Hold::Secretmem, Call::MemfdSecret),
    ] {
        let refused = Vault::builder().hold(hold).hold_level(Level::Require).build().err();
        let Some(Error::HoldRefused(cause)) = refused else { panic!("{refused:?}") };
        assert_eq!((cause.call, cause.errno), (call, errno::ENOSYS));
        assert_eq!(cause.symbol(), Some("ERROR_CALL_NOT_IMPLEMENTED"));
    }
    let vault = Vault::builder().build().unwrap();
    let status = vault.status();
    assert_eq!(status.hold, securememory::HoldUsed::Guarded);
    assert!(status.protections.fork.got, "there are no forks");
}

#[test]
fn a_working_set_that_cannot_grow_is_a_limit_with_a_hint() {
    let _guard = TestGuard::new();
    let plan = inject::fail(Call::Mlock, Plan::Always { errno: f::ERROR_WORKING_SET_QUOTA.cast_signed() });
    let refused = Vault::builder().policy(Policy::new().lock(Level::Require)).build().err().unwrap();
    drop(plan);
    let Error::Refused { protection: Protection::Lock, cause } = refused else { panic!("{refused}") };
    assert_eq!(cause.symbol(), Some("ERROR_WORKING_SET_QUOTA"));
    assert!(refused.to_string().contains("VirtualLock"), "{refused}");
    assert!(refused.to_string().contains("error 1453"), "{refused}");
    let hint = refused.hint().unwrap().to_string();
    assert!(hint.contains("working set"), "{hint}");
}

#[test]
fn handlers_that_are_refused_leave_nothing() {
    case("handlers_that_are_refused_leave_nothing").run(|| {
        let plan = inject::fail(Call::ExceptionHandler, Plan::Nth { n: 1, errno: errno::ENOMEM });
        let refused = fault::install(FaultPolicy::Abort).err();
        assert!(
            matches!(refused, Some(Error::System(cause)) if cause.call == Call::ExceptionHandler),
            "{refused:?}"
        );
        drop(plan);
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        let plan = inject::fail(Call::ExceptionHandler, Plan::Nth { n: 1, errno: errno::ENOMEM });
        assert!(guard.uninstall().is_err());
        drop(plan);
        let plan = inject::fail(Call::ConsoleHandler, Plan::Nth { n: 1, errno: errno::ENOMEM });
        let refused = Coordinator::install(&Signal::TERMINATION, Options::new()).err();
        assert!(
            matches!(refused, Some(Error::System(cause)) if cause.call == Call::ConsoleHandler),
            "{refused:?}"
        );
        drop(plan);
        let coordinator = Coordinator::install(&Signal::TERMINATION, Options::new()).unwrap();
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
    });
}

// ---- console events ----

#[test]
fn what_has_no_event_cannot_be_coordinated() {
    let _guard = TestGuard::new();
    let refused = Coordinator::install(&[Signal::TERM, Signal::USR1], Options::new()).err();
    assert_eq!(refused, Some(Error::BadSignal { signal: Signal::USR1.as_raw() }));
    let none = securememory::signal::register(Signal::TERM, Priority::Normal, |_| Outcome::Handled).err();
    assert_eq!(none, Some(Error::BadSignal { signal: Signal::TERM.as_raw() }), "nothing is left of it");
}

/// Sends this process an event, if it has a console.
fn send_break() {
    // SAFETY: takes two numbers. Group zero: who shares the console, which is a case of its own alone.
    if unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, 0) } == 0 {
        skip(&format!("no console: {}", std::io::Error::last_os_error()));
    }
}

fn wait_for(word: &AtomicU32) {
    for _ in 0..500 {
        if word.load(Ordering::SeqCst) != 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    skip("the event did not come: this console delivers none");
}

#[test]
fn an_event_reaches_its_closure() {
    case("an_event_reaches_its_closure").without_guard("it may be skipped in the middle").run(|| {
        static CAME: AtomicU32 = AtomicU32::new(0);
        let coordinator = Coordinator::install(&[Signal::QUIT], Options::new().ends(true)).unwrap();
        let registration = securememory::signal::register(Signal::QUIT, Priority::Normal, |delivered| {
            assert_eq!((delivered.signal(), delivered.sender()), (Signal::QUIT, None));
            CAME.store(1, Ordering::SeqCst);
            Outcome::Handled
        })
        .unwrap();
        send_break();
        wait_for(&CAME);
        drop(registration);
        coordinator.uninstall().unwrap();
    });
}

#[test]
fn an_event_that_ends_the_process_ends_it_with_its_code() {
    let ended = Ending::Code(f::STATUS_CONTROL_C_EXIT);
    case("an_event_that_ends_the_process_ends_it_with_its_code").ending(ended).run(|| {
        Coordinator::install(&[Signal::QUIT], Options::new().ends(true)).unwrap().keep();
        securememory::signal::register(Signal::QUIT, Priority::Normal, |_| Outcome::Terminate)
            .unwrap()
            .keep();
        send_break();
        std::thread::sleep(Duration::from_secs(5));
        skip("the event did not come: this console delivers none");
    });
}

#[test]
fn the_status_says_whether_closed_pages_are_encrypted() {
    case("the_status_says_whether_closed_pages_are_encrypted").run(|| {
        let vault = Vault::builder().build().unwrap();
        let status = vault.status();
        let encrypted = status.closed_encrypted.expect("it is told on Windows");
        assert_eq!(encrypted.asked, status.protections.lock.asked);
        if is_wine() {
            // What a call without effect says of itself is not believed.
            let refused = CallError { call: Call::ProtectMemory, errno: errno::ENOTSUP };
            assert_eq!((encrypted.got, encrypted.refused), (false, Some(refused)));
            assert_eq!(
                status.protections.lock.refused,
                Some(refused),
                "so they are not kept from the page file"
            );
        } else {
            assert_eq!((encrypted.got, encrypted.refused), (true, None));
        }
    });
}
