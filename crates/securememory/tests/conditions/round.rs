//! One vault of each kind with one secret: what the library says of it, and what it has done.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use securememory::{
    Achieved, Degradation, Error, ErrorKind, Evidence, Hold, HoldUsed, Level, Policy, Secret, Store, Vault,
    VaultBuilder, View,
};

use crate::common::Needle;
use crate::look::{self, Reader};

/// Bytes of a secret.
pub const LEN: usize = 64;

/// Of a secret's first value. `lab/conditions` makes the same bytes of it, to look for them from outside.
const SEED: u64 = 0x00c0_ffee;

pub const KINDS: [&str; 6] = ["auto", "pkey", "split", "secretmem", "guarded", "paged"];

/// `default`, which requires the fork guard; `prefer`, which requires nothing; `require` the hold as well; `strict`.
pub const POLICIES: [&str; 4] = ["default", "prefer", "require", "strict"];

pub fn builder(kind: &str, policy: &str) -> VaultBuilder {
    let levels = match policy {
        "prefer" => Policy::new().guard(Level::Prefer).fork(Level::Prefer),
        "strict" => Policy::strict(),
        _ => Policy::new(),
    };
    let hold = match kind {
        "pkey" => Hold::Pkey,
        "split" => Hold::Split,
        "secretmem" => Hold::Secretmem,
        "guarded" => Hold::Guarded,
        _ => Hold::Auto,
    };
    let store = if kind == "paged" { Store::Paged } else { Store::Sealed };
    let level = if policy == "require" { Level::Require } else { Level::Prefer };
    Vault::builder().store(store).hold(hold).hold_level(level).policy(levels)
}

/// What was said and done, as parts of a JSON object, and where the two differ.
#[derive(Default)]
pub struct Row {
    pub kind: &'static str,
    pub policy: &'static str,
    pub said: String,
    pub did: String,
    pub differ: Vec<String>,
}

impl Row {
    pub fn line(&self) -> String {
        let Self { kind, policy, said, did, differ } = self;
        let mut text = format!(
            "{{\"kind\":\"{kind}\",\"policy\":\"{policy}\",\"said\":{{{said}}},\"did\":{{{did}}},\"differ\":["
        );
        for (n, one) in differ.iter().enumerate() {
            let _ = write!(text, "{}{}", if n == 0 { "" } else { "," }, quote(one));
        }
        text + "]}"
    }

    fn say(&mut self, name: &str, value: impl std::fmt::Display) {
        put(&mut self.said, name, value);
    }

    fn do_(&mut self, name: &str, value: impl std::fmt::Display) {
        put(&mut self.did, name, value);
    }

    fn need(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.differ.push(what());
        }
    }

    /// An error, with its kind and what it says to change.
    fn refuse(&mut self, step: &str, error: &Error) {
        self.say("step", quote(step));
        self.say("error", quote(&error.to_string()));
        self.say("error_kind", quote(&format!("{:?}", error.kind())));
        let hint = error.hint().map(|hint| hint.to_string());
        self.say("hint", quote(hint.as_deref().unwrap_or("")));
        self.need(is_fitting(error), || format!("{step}: {error:?} is no error for this"));
    }
}

fn put(object: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = write!(object, "{}\"{name}\":{value}", if object.is_empty() { "" } else { "," });
}

pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push(' '),
            char => quoted.push(char),
        }
    }
    quoted + "\""
}

/// Is the error one that says what a condition has refused, and, where a person can change that, how?
pub fn is_fitting(error: &Error) -> bool {
    let kind = matches!(error.kind(), ErrorKind::Limit | ErrorKind::Protection | ErrorKind::System);
    let cause = match error {
        Error::Refused { cause, .. } | Error::System(cause) | Error::HoldRefused(cause) => Some(cause.errno),
        Error::NotInForce(_) | Error::OutOfMemory { .. } | Error::ScratchExhausted { .. } => None,
        _ => return false,
    };
    let changeable = [libc::EPERM, libc::ENOMEM, libc::EMFILE, libc::EAGAIN];
    kind && (cause.is_none_or(|errno| !changeable.contains(&errno)) || error.hint().is_some())
}

fn word(achieved: &Achieved) -> &'static str {
    match (achieved.got, achieved.evidence, achieved.asked) {
        (true, Evidence::Kernel, _) => "\"in force\"",
        (true, Evidence::Construction, _) => "\"by construction\"",
        (true, ..) => "\"unverified\"",
        (false, _, Level::Off) => "\"not asked\"",
        (false, ..) => "\"refused\"",
    }
}

/// What one vault and one secret say and do. `looked_at` is called while both are there and nothing is open.
pub fn of(
    kind: &'static str,
    policy: &'static str,
    reader: &Reader,
    looked_at: &dyn Fn(&Row, &Secret),
) -> Row {
    let mut row = Row { kind, policy, ..Row::default() };
    let outcome = catch_unwind(AssertUnwindSafe(|| go(&mut row, reader, looked_at)));
    row.need(outcome.is_ok(), || "it panicked".to_owned());
    row
}

fn go(row: &mut Row, reader: &Reader, looked_at: &dyn Fn(&Row, &Secret)) {
    let (locked_before, files_before) = (look::locked(), look::share_files());
    let needle = Needle::new(SEED, LEN);
    let vault = match builder(row.kind, row.policy).build() {
        Ok(vault) => vault,
        Err(error) => {
            row.refuse("vault", &error);
            row.need(look::locked() == locked_before, || "a refused vault has left locked memory".to_owned());
            row.need(look::share_files() == files_before, || "a refused vault has left files".to_owned());
            return;
        }
    };
    let secret = match vault.secret().init_with(LEN, |room| needle.write(room, 0)) {
        Ok(secret) => secret,
        Err(error) => return row.refuse("secret", &error),
    };
    a_view(row, &secret, &needle, reader);
    at_rest(row, &secret, &needle, reader);
    what_it_has(row, &vault, locked_before, files_before);
    looked_at(row, &secret);
    changes(row, &vault, &secret, &needle);
}

/// Reads, while a child looks, too; and what is said of the memory of the view.
fn a_view(row: &mut Row, secret: &Secret, needle: &Needle, reader: &Reader) {
    let view = match secret.view() {
        Ok(view) => view,
        Err(error) => return row.refuse("view", &error),
    };
    row.need(needle.is(&view), || "the view has other bytes than the secret".to_owned());
    let said = secret.status().protections;
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let (start, end) = (view.as_ptr().addr(), view.as_ptr().addr() + LEN);
    row.do_("view", start);
    let flags = look::flags(start);
    for (name, said, did) in [
        ("lock", said.lock, flags.map(|flags| flags.locked)),
        ("dump", said.dump, flags.map(|flags| flags.no_dump)),
        ("fork", said.fork, flags.map(|flags| flags.no_fork)),
    ] {
        row.say(name, word(&said));
        row.do_(
            name,
            did.map_or("\"not to be seen\"", |did| if did { "\"in force\"" } else { "\"absent\"" }),
        );
        match did {
            Some(did) => {
                row.need(said.got == did, || format!("{name}: said {said:?}, the kernel lists {did}"))
            }
            None => row.need(said.evidence != Evidence::Kernel, || format!("{name}: said {said:?} unseen")),
        }
        let allowed = said.got || said.asked != Level::Require;
        row.need(allowed, || format!("{name}: required, refused, and gone on without"));
    }
    let guarded = !reader.reaches(start / page * page - 1) && !reader.reaches(end.next_multiple_of(page));
    row.say("guard", word(&said.guard));
    row.do_("guard", if guarded { "\"faults\"" } else { "\"absent\"" });
    row.need(said.guard.got == guarded, || "guard pages are not what is said".to_owned());
    in_a_child(row, secret, view, needle, reader, said.fork.got);
    let mut room = [0; LEN];
    let left = reader.read(start, &mut room).is_some_and(|bytes| needle.is(bytes));
    row.need(!left, || "the bytes are left when the view has ended".to_owned());
}

/// What a child has of an open view, and whether it is refused all that it has inherited, without harm. Ends the view.
fn in_a_child(
    row: &mut Row,
    secret: &Secret,
    view: View<'_>,
    needle: &Needle,
    reader: &Reader,
    guarded: bool,
) {
    let start = view.as_ptr().addr();
    let owned = secret.owned_view();
    // Taken out by the child alone.
    let (mut view, mut owned) = (Some(view), Some(owned));
    // Bit 0: the bytes are there; bit 1: something is not refused as it has to be.
    let child = look::in_child(|| {
        let mut room = [0; LEN];
        let kept = reader.read(start, &mut room).is_some_and(|bytes| needle.is(bytes));
        let mut refused = secret.view().map(drop) == Err(Error::Forked);
        if let Some(Ok(owned)) = owned.take() {
            refused &= owned.with(|_| ()).map_err(Error::from) == Err(Error::Forked);
        }
        refused &= view.take().is_some_and(|view| view.finish() == Err(Error::Forked));
        refused &= secret.close().is_err();
        u8::from(kept) | u8::from(!refused) << 1
    });
    let seen =
        ["\"gone\"", "\"kept, secret refused\"", "\"gone, secret not refused\"", "\"kept, not refused\""];
    row.do_("child", child.map_or("\"died\"", |child| seen[usize::from(child & 3)]));
    row.need(child.is_some_and(|child| child & 2 == 0), || {
        "a child died or is not refused the secret".to_owned()
    });
    if guarded {
        row.need(child.is_some_and(|child| child & 1 == 0), || "a child has the bytes".to_owned());
    }
    let outcome = view.take().map(View::finish);
    row.need(outcome == Some(Ok(())), || format!("the view ended with {outcome:?}"));
}

/// What lies where the secret is at rest.
fn at_rest(row: &mut Row, secret: &Secret, needle: &Needle, reader: &Reader) {
    let status = secret.status();
    row.say("store", quote(&format!("{:?}", status.store)));
    let Some(place) = status.at_rest else {
        return row.differ.push("an open secret lies nowhere".to_owned());
    };
    let mut room = [0; 512];
    let len = place.len.min(room.len());
    let found = reader.read(place.address, &mut room[..len]);
    let what = match found {
        None => "out of reach",
        Some(bytes) if bytes.windows(8).any(|window| has(needle, window)) => "plaintext",
        Some(_) => "ciphertext",
    };
    row.do_("at_rest", quote(what));
    let promised = if status.store == Store::Paged { "out of reach" } else { "ciphertext" };
    row.need(what == promised, || format!("at rest it is {what}"));
}

fn has(needle: &Needle, window: &[u8]) -> bool {
    (0..needle.len() - window.len()).any(|at| (0..window.len()).all(|n| needle.byte(at + n) == window[n]))
}

/// Locked bytes, descriptors, the hold, and what diagnostics say of what was not had.
fn what_it_has(row: &mut Row, vault: &Vault, locked_before: Option<u64>, files_before: usize) {
    let status = vault.status();
    let now = look::locked().zip(locked_before).map(|(now, before)| now - before + look::uncounted());
    row.say("locked_bytes", status.locked_bytes);
    row.do_("locked_bytes", now.map_or("null".to_owned(), |now| now.to_string()));
    let equal = now.is_none_or(|now| now == status.locked_bytes as u64);
    row.need(equal, || format!("said {} bytes locked, the kernel {now:?}", status.locked_bytes));
    let files = look::share_files() - files_before;
    row.say("replicas", status.replicas);
    row.do_("files", files);
    row.need(files == status.replicas, || format!("said {} replicas, there are {files}", status.replicas));
    row.need((status.hold == HoldUsed::Split) == (files > 0), || "a split key without files".to_owned());
    if row.kind != "paged" {
        row.say("hold", quote(&format!("{:?}", status.hold)));
    }
    if let Some(why) = status.hold_stepped_down {
        row.say("stepped_down", quote(&why.to_string()));
    }
    let degradations = vault.diagnostics().degradations;
    let listed: Vec<String> = degradations.iter().map(|one| quote(&one.to_string())).collect();
    row.say("degradations", format_args!("[{}]", listed.join(",")));
    let told = |is: fn(&Degradation) -> bool| degradations.iter().any(is);
    if !status.protections.lock.got {
        let is =
            |one: &Degradation| matches!(one, Degradation::Protection { .. } | Degradation::Pages { .. });
        row.need(told(is), || "what is not locked is not among the degradations".to_owned());
    }
    let wished = match row.kind {
        "pkey" => Some(HoldUsed::Pkey),
        "split" => Some(HoldUsed::Split),
        "secretmem" => Some(HoldUsed::Secretmem),
        _ => None,
    };
    if wished.is_some_and(|wished| wished != status.hold) {
        let is = |one: &Degradation| matches!(one, Degradation::Hold { .. });
        row.need(told(is), || "the hold that was stepped down from is not among the degradations".to_owned());
        row.need(row.policy != "require", || "another hold than was required".to_owned());
    }
}

/// Each is done, or an error that says what was refused; the value is whole in any case.
fn changes(row: &mut Row, vault: &Vault, secret: &Secret, needle: &Needle) {
    let other = Needle::new(0xbeef, LEN);
    let mut source = [0; LEN];
    other.write(&mut source, 0);
    let mut now = needle;
    match secret.replace(&mut source) {
        Ok(()) => now = &other,
        Err(error) => row.refuse("replace", &error),
    }
    source.fill(0);
    let reads_as = |now: &Needle| secret.with(|bytes| now.is(bytes)) == Ok(true);
    row.need(reads_as(now), || "after a change it reads as something else".to_owned());
    if let Err(error) = vault.refresh() {
        row.refuse("refresh", &error);
    }
    row.need(reads_as(now), || "after a refresh it reads as something else".to_owned());
    let closed = secret.close();
    row.need(closed == Ok(securememory::Closed::Closed), || format!("the close says {closed:?}"));
    let after = secret.view().map(drop);
    row.need(after == Err(Error::Closed), || format!("after the close a view is {after:?}"));
    row.do_("use", if row.said.contains("\"error\"") { "\"refused, whole\"" } else { "\"done\"" });
}
