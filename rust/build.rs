//! Hands the versions that Cargo.lock resolved to the compiler, so that `versions()` cannot lie.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let lock = fs::read_to_string(Path::new(&root).join("Cargo.lock")).unwrap_or_default();
    for (package, variable) in [("iroh", "LG_IROH_VERSION"), ("iroh-gossip", "LG_IROH_GOSSIP_VERSION")] {
        println!("cargo::rustc-env={variable}={}", version_of(&lock, package).unwrap_or("unknown"));
    }
}

/// The line after `name = "<package>"` is the version, in every lock file format so far.
fn version_of<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let wanted = format!("name = \"{package}\"");
    let mut lines = lock.lines();
    lines.find(|line| *line == wanted)?;
    lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')
}
