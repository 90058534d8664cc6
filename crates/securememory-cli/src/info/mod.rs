//! `securememory info`: what this build can do, what this host offers, which limits apply and how to raise them, and what a vault
//! with default settings gets here.

mod advice;
mod json;
mod text;
mod words;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use securememory::harden::{self, Options, Report};
use securememory::{Diagnostics, Error, Hold, Host, Level, Preflight, Store, Vault, VaultStatus};

#[cfg(any(target_os = "linux", all(windows, target_arch = "x86_64")))]
pub(crate) use json::host as host_json;

/// Options of `securememory info`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Do the limits suffice for so many secrets?
    #[arg(long, value_name = "N")]
    secrets: Option<usize>,
    /// Bytes of each of them
    #[arg(long, value_name = "BYTES", default_value_t = 32, requires = "secrets")]
    size: usize,
}

/// Everything that `info` tells.
struct Info {
    host: Host,
    vault: Result<VaultStatus, Error>,
    /// Of that vault.
    diagnostics: Option<Diagnostics>,
    /// What hardening the process would find; nothing is done.
    hardening: Report,
    holds: Vec<HoldHere>,
    /// Of the secrets that were asked about.
    preflight: Option<Result<Preflight, Error>>,
    advice: Vec<String>,
}

/// A key hold, and whether a vault can have it here.
struct HoldHere {
    name: &'static str,
    what: &'static str,
    made: Result<(), Error>,
}

/// All of them, tried: the system's offers are not the whole answer.
fn holds() -> Vec<HoldHere> {
    let holds = [
        ("pkey", Hold::Pkey, "a page that a protection key closes; used in place"),
        ("split", Hold::Split, "two shares, one in an in-memory file"),
        ("secretmem", Hold::Secretmem, "memory that the kernel does not map; only if asked for"),
        ("guarded", Hold::Guarded, "a page without access"),
    ];
    let here = |(name, hold, what)| {
        let vault = Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require).build();
        HoldHere { name, what, made: vault.map(drop) }
    };
    holds.map(here).into()
}

/// Probes and prints. Fails only where no vault can be made at all.
pub fn run(args: Args) -> ExitCode {
    // The vault first, the limits after it: what is in use then includes the vault.
    let vault = Vault::builder().build();
    let host = Host::probe();
    let status = vault.as_ref().map(Vault::status).map_err(|error| *error);
    let advice = advice::of(&host, &status);
    let ask = |(vault, count): (&Vault, usize)| vault.preflight(count, args.size);
    let preflight = vault.as_ref().ok().zip(args.secrets).map(ask);
    let diagnostics = vault.as_ref().ok().map(Vault::diagnostics);
    let hardening = harden::process(Options::look());
    let info = Info { host, vault: status, diagnostics, hardening, holds: holds(), preflight, advice };
    let page = if args.json {
        json::page(&info)
    } else {
        let colour =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        text::page(&info, colour)
    };
    // A reader that went away (`info | head`) is no failure.
    let _ = std::io::stdout().lock().write_all(page.as_bytes());
    if info.vault.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn probed() -> Info {
        let host = Host::probe();
        let vault = Vault::builder().build().unwrap();
        let preflight = Some(vault.preflight(1000, 32));
        let diagnostics = Some(vault.diagnostics());
        let hardening = harden::process(Options::look());
        let vault = Ok(vault.status());
        let advice = advice::of(&host, &vault);
        Info { host, vault, diagnostics, hardening, holds: holds(), preflight, advice }
    }

    #[test]
    fn json_has_host_vault_and_advice() {
        let page: serde_json::Value = serde_json::from_str(&json::page(&probed())).unwrap();
        assert_eq!(page["version"], 1);
        assert_eq!(page["build"]["backend"], securememory::Build::HERE.backend);
        assert_eq!(page["build"].as_object().unwrap().len(), 12);
        assert!(page["build"]["split"] == true || page["holds"]["split"]["available"] == false, "{page:#}");
        // The smallest there is, not a page size of here.
        assert!(page["host"]["page_size"].as_u64().unwrap() >= 4096);
        assert!(page["vault"]["hold"].is_string());
        assert!(page["advice"].is_array());
        assert!(page["diagnostics"]["locked_in_process"].as_u64().unwrap() > 0, "{page:#}");
        assert_eq!(page["hardening"]["not_dumpable"], false, "{page:#}");
        assert!(page["hardening"]["dumped_bytes"].as_u64().unwrap() > 0, "{page:#}");
        assert_eq!(page["preflight"]["fits"], true, "{page:#}");
        for hold in ["pkey", "split", "secretmem", "guarded"] {
            let available = page["holds"][hold]["available"].as_bool().unwrap();
            assert_eq!(available, page["holds"][hold]["error"].is_null(), "{hold}");
        }
        assert_eq!(page["holds"]["guarded"]["available"], true);
    }

    #[test]
    fn text_without_colour_has_no_escapes_and_all_headings() {
        let page = text::page(&probed(), false);
        assert!(!page.contains('\u{1b}'), "{page}");
        assert!(page.contains("1000 more sealed secrets of 32 bytes fit"), "{page}");
        for heading in [
            "What this build can do",
            "What the machine grants",
            "Limits",
            "Who may see memory",
            "Hardening",
            "Key holds",
            "A default vault here",
        ] {
            assert!(page.contains(heading), "{heading} is missing:\n{page}");
        }
        assert!(page.lines().all(|line| line.chars().count() <= 120), "{page}");
    }

    #[test]
    fn a_vault_that_cannot_be_made_is_told_with_its_reason() {
        let mut info = probed();
        info.vault = Err(Error::Forked);
        assert!(text::page(&info, false).contains(&Error::Forked.to_string()));
        let page: serde_json::Value = serde_json::from_str(&json::page(&info)).unwrap();
        assert_eq!(page["vault"]["error"], Error::Forked.to_string());
    }
}
