//! Carries out a program, beside the model, and says where they differ.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use securememory::testing::open_views;
use securememory::{Error, Level, Policy, Secret, Vault};

use super::common::Needle;
use super::places::{Place, What};
use super::program::{Own, Program, Setup, Span, Step};
use super::reference::{Model, Vault as VaultModel};
use super::streams::Stream;
use super::values::Value;
use super::views::{Owning, Reading, Writing};

/// The largest secret that `Store::Auto` seals in a program.
pub const SEALED_MAX: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

/// What was found: where library and model differ.
pub type Found<T = ()> = Result<T, String>;

/// Ends a callback on purpose, without a word on stderr.
pub fn panic_on_purpose() -> ! {
    struct Meant;
    resume_unwind(Box::new(Meant))
}

/// Runs what may panic on purpose.
pub fn catch<T>(f: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(f)).ok()
}

/// Is it the same error, but for times and names?
fn same(a: Error, b: Error) -> bool {
    matches!((a, b), (Error::Timeout { .. }, Error::Timeout { .. }) | (Error::Busy(_), Error::Busy(_)))
        || a == b
}

/// How often each result came.
static RESULTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

fn note_result(error: Option<Error>) {
    let name = error.map_or("Ok".to_owned(), |error| format!("{error:?}"));
    let name = name.split([' ', '(']).next().unwrap_or_default().to_owned();
    *RESULTS.lock().unwrap().entry(name).or_default() += 1;
}

/// Says how often each result came, and sees to it that these did.
pub fn tell_results(wanted: &[&str]) {
    let results = RESULTS.lock().unwrap();
    eprintln!("results: {results:?}");
    for name in wanted {
        assert!(results.contains_key(*name), "no call gave {name}: these programs prove little");
    }
}

/// What the library gave, if it was to give something.
pub fn agree<T>(got: Result<T, Error>, want: Result<(), Error>) -> Found<Option<T>> {
    note_result(want.err());
    match (got, want) {
        (Ok(value), Ok(())) => Ok(Some(value)),
        (Err(got), Err(want)) if same(got, want) => Ok(None),
        (got, want) => Err(format!("gave {:?}, the model says {want:?}", got.map(|_| "Ok"))),
    }
}

pub fn check(holds: bool, what: impl FnOnce() -> String) -> Found {
    if holds { Ok(()) } else { Err(what()) }
}

/// As `check`, where a janitor may be at work: soon.
pub fn soon(has_janitor: bool, mut holds: impl FnMut() -> Found) -> Found {
    let started = Instant::now();
    loop {
        let outcome = holds();
        if outcome.is_ok() || !has_janitor || started.elapsed() > Duration::from_secs(5) {
            return outcome;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn pick(number: u8, of: usize) -> Option<usize> {
    (of > 0).then(|| usize::from(number) % of)
}

/// What a program has in hand.
pub struct Runner {
    pub needle: Needle,
    drawn: usize,
    pub model: Model,
    pub vaults: Vec<Option<Vault>>,
    /// Those that the program can still name, with their numbers in the model.
    pub secrets: Vec<(usize, Rc<Secret>)>,
    /// Of all there ever were.
    weak: Vec<Weak<Secret>>,
    pub views: Vec<Reading>,
    pub writers: Vec<Writing>,
    pub owned: Vec<Owning>,
    pub streams: Vec<Stream>,
    pub leaked: (Vec<Rc<Secret>>, Vec<Owning>),
    pub places: Vec<Place>,
    /// Where views lie that were forgotten.
    pub forgotten: Vec<usize>,
    searched: bool,
}

/// A vault as a program wants it.
pub fn build(setup: &Setup) -> Result<Vault, Error> {
    let milliseconds = Duration::from_millis;
    let policy = Policy::new()
        .lock(setup.lock)
        .dump(setup.dump)
        .on_close(setup.on_close)
        .wait(milliseconds(setup.wait))
        .close_wait(milliseconds(1))
        .linger(if setup.lingers { HOUR } else { Duration::ZERO });
    let policy = if setup.expires { policy.time_to_live(HOUR).idle_time(HOUR) } else { policy };
    let policy = match setup.revoke_after {
        Some(after) => policy.revoke_after(after.duration()),
        None => policy,
    };
    let mut builder = Vault::builder()
        .policy(policy)
        .store(setup.store)
        .hold(setup.hold)
        .hold_level(Level::Require)
        .sealed_max(SEALED_MAX)
        .locked_max(if setup.lock == Level::Require { 1 << 20 } else { 64 << 10 });
    if let Some(views) = setup.tight {
        builder = builder.views_max(views);
    }
    if let Some(seals) = setup.refresh_after {
        builder = builder.refresh_after_seals(seals);
    }
    if setup.close_on_drop {
        builder = builder.close_on_drop();
    }
    if setup.janitor {
        builder = builder.janitor();
    }
    if let Some(cipher) = setup.cipher {
        builder = builder.cipher(cipher);
    }
    builder.build()
}

impl Runner {
    pub fn new(program: &Program) -> Found<Self> {
        let (mut vaults, mut model) = (Vec::new(), Model::default());
        for setup in &program.vaults {
            let vault = build(setup).map_err(|error| format!("a vault was refused: {error:?} {setup:?}"))?;
            vaults.push(Some(vault));
            model.vaults.push(VaultModel::new(*setup));
        }
        Ok(Self {
            // Bytes, not a page size.
            needle: Needle::new(program.seed, 4096),
            drawn: 0,
            model,
            vaults,
            secrets: Vec::new(),
            weak: Vec::new(),
            views: Vec::new(),
            writers: Vec::new(),
            owned: Vec::new(),
            streams: Vec::new(),
            leaked: (Vec::new(), Vec::new()),
            places: Vec::new(),
            forgotten: Vec::new(),
            searched: !program.deep,
        })
    }

    /// Bytes that nobody had before.
    pub fn draw(&mut self, len: usize) -> Value {
        self.drawn += 61;
        Value::of(&self.needle, self.drawn, len)
    }

    pub fn vault(&self, number: u8) -> Option<(usize, Vault)> {
        let at = pick(number, self.vaults.len())?;
        Some((at, self.vaults[at].clone()?))
    }

    pub fn secret(&self, number: u8) -> Option<(usize, Rc<Secret>)> {
        pick(number, self.secrets.len()).map(|at| self.secrets[at].clone())
    }

    pub fn note(&mut self, vault: usize, secret: Secret, value: Value, own: Option<Own>) {
        let on_close = own.map_or(self.model.vaults[vault].setup.on_close, |own| own.on_close);
        let at = self.model.create(vault, value, on_close);
        let model = &mut self.model.secrets[at];
        (model.id, model.label) = (secret.id(), secret.label().map(str::to_owned));
        if let Some(own) = own {
            model.revoke_after = None;
            model.expires = own.time_to_live.or(own.idle_time).is_some();
            model.due = [own.time_to_live, own.idle_time].contains(&Some(Span::None));
        }
        let secret = Rc::new(secret);
        self.weak.push(Rc::downgrade(&secret));
        self.secrets.push((at, secret));
    }

    pub fn step(&mut self, step: Step) -> Found {
        match step {
            Step::Create { vault, how, len, own, label } => self.create(vault, how, len, own, label),
            Step::Derive { secret, len, panics } => self.derive(secret, len, panics),
            Step::Close { secret, wait } => self.close(secret, wait),
            Step::CloseMany { first, count } => self.close_many(first, count),
            Step::DropSecret { secret } => {
                if let Some(at) = pick(secret, self.secrets.len()) {
                    self.secrets.remove(at);
                }
                Ok(())
            }
            Step::LeakSecret { secret } => {
                if let Some(at) = pick(secret, self.secrets.len()) {
                    self.leaked.0.push(self.secrets.remove(at).1);
                }
                Ok(())
            }
            Step::Look { secret } => self.look(secret),
            Step::Refresh { .. }
            | Step::FinishRefresh { .. }
            | Step::Purge { .. }
            | Step::Tidy { .. }
            | Step::Warm { .. }
            | Step::CloseVault { .. }
            | Step::DropVault { .. } => self.step_of_vault(step),
            Step::Stream { .. }
            | Step::StreamWrite { .. }
            | Step::StreamFinish { .. }
            | Step::StreamRead { .. }
            | Step::StreamChunk { .. }
            | Step::StreamRewind { .. }
            | Step::StreamClose { .. }
            | Step::StreamDrop { .. } => self.step_of_stream(step),
            #[cfg(target_os = "linux")]
            Step::Fork { new_vault } => self.fork(new_vault),
            // There are no forks.
            #[cfg(windows)]
            Step::Fork { .. } => Ok(()),
            _ => self.step_of_view(step),
        }
    }

    /// To be called after each step: is what can be seen as the model says?
    pub fn compare(&mut self) -> Found {
        for (secret, weak) in self.model.secrets.iter_mut().zip(&self.weak) {
            secret.dropped = weak.strong_count() == 0;
        }
        for (at, vault) in self.vaults.iter().enumerate() {
            let (Some(vault), model) = (vault, &self.model.vaults[at]) else { continue };
            soon(model.setup.janitor, || {
                let ((views, lingers), open) = (open_views(vault), model.slots + model.tickets);
                let lingering = self.model.lingering(at);
                check(views.len() == open && lingers == lingering, || {
                    let found = vault.diagnostics();
                    format!("vault {at}: {found}; the model has {open} views and {lingering}")
                })
            })?;
        }
        soon(self.model.vaults.iter().any(|vault| vault.setup.janitor), || self.look_at_places())?;
        if !self.searched && self.nothing_is_open() && !self.secrets.is_empty() && self.drawn > 300 {
            self.searched = true;
            let found = self.needle.find();
            check(found.is_empty(), || format!("at rest there is plaintext: {found:#?}"))?;
        }
        Ok(())
    }

    fn nothing_is_open(&self) -> bool {
        let shows = (0..self.model.secrets.len()).any(|at| self.model.may_show(at));
        !shows && self.model.vaults.iter().all(|vault| vault.slots == 0 && vault.tickets == 0)
    }

    pub fn remember(&mut self, at: usize, address: usize, value: Value) {
        let secret = &self.model.secrets[at];
        let what = What::Bytes { value, paged: secret.paged.then_some(at) };
        self.places.push(Place { vault: secret.vault, address, what });
        if self.places.len() > 24 {
            self.places.remove(0);
        }
    }

    fn look_at_places(&self) -> Found {
        let in_use = |address| {
            self.views.iter().any(|view| view.address() == address)
                || self.writers.iter().any(|writer| writer.address() == address)
                || self
                    .owned
                    .iter()
                    .chain(&self.leaked.1)
                    .any(|owned| owned.address == address && !self.model.copies[owned.copy].wiped)
                || self.forgotten.contains(&address)
        };
        for place in &self.places {
            // Its memory may be anybody's by now.
            if self.vaults[place.vault].is_none() {
                continue;
            }
            let may_show = match &place.what {
                What::Bytes { paged: None, .. } => in_use(place.address),
                What::Bytes { paged: Some(secret), .. } => self.model.may_show(*secret),
                What::Record { secret, .. } => {
                    self.model.exists(*secret) && !self.model.secrets[*secret].wiped
                }
            };
            check(may_show || !place.shows(), || {
                format!("{} at {:#x} should be wiped", place.what, place.address)
            })?;
        }
        Ok(())
    }
}
