//! Which versions are measured: what Cargo.lock says.

const LOCK: &str = include_str!("../Cargo.lock");

/// Of a crate.
pub fn locked(name: &str) -> String {
    find(LOCK, name).unwrap_or("?").into()
}

/// With the commit, if whoever runs it says which it is.
pub fn ours() -> String {
    let version = locked("securememory");
    std::env::var("PEERS_COMMIT").map_or(version.clone(), |commit| format!("{version} at {commit}"))
}

fn find<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let wanted = format!("name = \"{name}\"");
    let mut lines = lock.lines().skip_while(|line| *line != wanted);
    lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_that_of_the_whole_name() {
        let lock = "[[package]]\nname = \"ab\"\nversion = \"2.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n";
        assert_eq!(find(lock, "a"), Some("1.0.0"));
        assert_eq!(find(lock, "b"), None);
    }

    #[test]
    fn every_peer_has_one() {
        for name in ["securememory", "memsec", "redoubt", "hardware-enclave"] {
            assert_ne!(locked(name), "?", "{name}");
        }
    }
}
