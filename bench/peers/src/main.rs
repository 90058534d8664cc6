//! Measures securememory beside other libraries that keep secrets in memory: README.md says what and how.

mod bounds;
mod child;
mod entries;
mod floors;
mod machine;
mod output;
mod peer;
mod peers;
mod place;
mod plan;
mod proc;
mod results;
mod stats;
mod team;
mod versions;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use plan::Settings;

/// Why something could not be measured.
type Failure = Box<dyn std::error::Error>;

/// There is nothing here that could be measured, which is nobody's fault.
#[derive(Debug)]
struct Skipped(String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

const USAGE: &str = "usage: peers [--quick] [--only WORK] [--out DIRECTORY]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, entry, work, slice] = args.as_slice()
        && first == child::WORD
    {
        return child::run(entry, work, slice);
    }
    match arguments(&args).and_then(|(settings, out)| measure(&settings, out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("peers: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(args: &[String]) -> Result<(Settings, Option<PathBuf>), Failure> {
    let (mut settings, mut out) = (Settings::FULL, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => settings = Settings { only: settings.only, ..Settings::QUICK },
            "--only" => settings.only = Some(rest.next().ok_or(USAGE)?.clone()),
            "--out" => out = Some(PathBuf::from(rest.next().ok_or(USAGE)?)),
            _ => return Err(USAGE.into()),
        }
    }
    Ok((settings, out))
}

fn measure(settings: &Settings, out: Option<PathBuf>) -> Result<(), Failure> {
    let results = plan::run(settings)?;
    let report = output::Report::of(&results, settings);
    print!("{}", output::table::markdown(&report));
    if let Some(directory) = out {
        output::write(&report, &directory)?;
    }
    Ok(())
}
