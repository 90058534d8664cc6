//! Filters that refuse system calls with an error number, as those of containers do.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// A call that can be refused: its name here, its number, and the third argument that it is refused with only.
type Known = (&'static str, libc::c_long, Option<libc::c_int>);

const KNOWN: [Known; 11] = [
    ("memfd_create", libc::SYS_memfd_create, None),
    ("memfd_secret", libc::SYS_memfd_secret, None),
    ("mlock", libc::SYS_mlock, None),
    ("mlock2", libc::SYS_mlock2, None),
    ("madvise", libc::SYS_madvise, None),
    // As gVisor answers: it knows the call and not this advice.
    ("wipe_on_fork", libc::SYS_madvise, Some(libc::MADV_WIPEONFORK)),
    ("dont_fork", libc::SYS_madvise, Some(libc::MADV_DONTFORK)),
    ("dont_dump", libc::SYS_madvise, Some(libc::MADV_DONTDUMP)),
    ("pkey_alloc", libc::SYS_pkey_alloc, None),
    ("getrandom", libc::SYS_getrandom, None),
    ("mprotect", libc::SYS_mprotect, None),
];

/// A filter from `CALL[,CALL...]:ERRNO`, such as `mlock,mlock2:EPERM`.
pub fn filter(wanted: &str) -> Result<BpfProgram, String> {
    let (calls, errno) = wanted.split_once(':').ok_or(format!("{wanted}: not CALL[,CALL...]:ERRNO"))?;
    let errno = match errno {
        "EPERM" => libc::EPERM,
        "ENOSYS" => libc::ENOSYS,
        "EINVAL" => libc::EINVAL,
        other => return Err(format!("no error {other} here")),
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls.split(',') {
        let (_, number, third) =
            KNOWN.into_iter().find(|known| known.0 == call).ok_or(format!("no call {call} here"))?;
        let of_call = rules.entry(number).or_default();
        if let Some(third) = third {
            let is = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, third as u64);
            let rule = is.and_then(|is| SeccompRule::new(vec![is])).map_err(|error| error.to_string())?;
            of_call.push(rule);
        }
    }
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().map_err(|error| format!("{error}"))?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}
