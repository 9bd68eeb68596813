//! The rendezvous directory: how nodes of one user on one host find each other, with no multicast.
//!
//! One small text file a node, named by a hash of the topic (whose knowledge admits to it) and the
//! node id; replaced atomically; 0600 in a folder of 0700. Its owner's pid and start time tell an
//! entry of a living process from one that a crash left behind, even when the pid is in use again.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use iroh::EndpointId;
use iroh_gossip::proto::TopicId;
use tokio::time;

use crate::{config::reachable, core::Core, error::Error, events::Event};

const POLL: Duration = Duration::from_millis(250);
const HEADER: &str = "llama-gossip rendezvous 1";
/// An entry is some 200 bytes; nobody but a mistaken hand writes longer ones.
const MAX_FILE: u64 = 4096;
/// More nodes of one user on one host than this are not looked at.
const MAX_ENTRIES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    node: EndpointId,
    pid: u32,
    started: u64,
    addresses: Vec<SocketAddr>,
}

/// Makes the folder if need be and checks that it is private.
pub fn prepare(folder: &Path) -> Result<(), Error> {
    let fault = |what: String| Error::Config(format!("rendezvous_dir: {}: {what}", folder.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| fault(error.to_string()))?;
    let metadata = fs::symlink_metadata(folder).map_err(|error| fault(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(fault("is not a folder".to_owned()));
    }
    // SAFETY: no arguments, cannot fail.
    if metadata.uid() != unsafe { libc::geteuid() } {
        return Err(fault("belongs to another user".to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(fault("is open to other users: chmod 700 it".to_owned()));
    }
    Ok(())
}

/// Files of one topic begin with this.
fn prefix(topic: &TopicId) -> String {
    let hash = blake3::derive_key("llama-gossip rendezvous topic 1", topic.as_bytes());
    format!("{}-", data_encoding::HEXLOWER.encode(&hash[..16]))
}

fn file_of(folder: &Path, topic: &TopicId, node: &EndpointId) -> PathBuf {
    folder.join(format!("{}{}", prefix(topic), data_encoding::HEXLOWER.encode(node.as_bytes())))
}

/// Start time of a process in clock ticks since boot; 0 where the system does not tell.
fn started(pid: u32) -> u64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0 };
    // The second field, the command, may contain anything; the last ')' ends it. Start is field 22.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn is_alive(entry: &Entry) -> bool {
    let Ok(pid) = libc::pid_t::try_from(entry.pid) else { return false };
    // SAFETY: signal 0 only asks whether the process exists.
    let exists = pid > 0
        && (unsafe { libc::kill(pid, 0) } == 0
            || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM));
    exists && started(entry.pid) == entry.started
}

impl Entry {
    fn of(core: &Core) -> Self {
        let pid = process::id();
        Entry { node: core.id, pid, started: started(pid), addresses: core.addresses() }
    }

    fn to_text(&self) -> String {
        let id = data_encoding::HEXLOWER.encode(self.node.as_bytes());
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        format!("{HEADER}\n{id}\n{} {}\n{}\n", self.pid, self.started, addresses.join(" "))
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next()? == HEADER).then_some(())?;
        let id = data_encoding::HEXLOWER.decode(lines.next()?.as_bytes()).ok()?;
        let (pid, started) = lines.next()?.split_once(' ')?;
        Some(Entry {
            node: EndpointId::from_bytes(&id.try_into().ok()?).ok()?,
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
            addresses: lines.next()?.split(' ').filter_map(reachable).take(8).collect(),
        })
    }

    fn read(path: &Path) -> Option<Self> {
        // Not through a link, and not from a pipe that would never answer.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        // SAFETY: no arguments, cannot fail.
        if !metadata.is_file() || metadata.uid() != unsafe { libc::geteuid() } {
            return None;
        }
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).ok()?;
        Entry::from_text(&text)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension(format!("{}.tmp", self.pid));
        // Left behind by a process of this pid that died in this very function.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(self.to_text().as_bytes())?;
        fs::rename(&temporary, path)
    }
}

/// All entries of living processes; files of dead ones are removed on the way.
fn scan(folder: &Path, topic: &TopicId) -> HashMap<EndpointId, Entry> {
    let prefix = prefix(topic);
    let mut found = HashMap::new();
    let Ok(files) = fs::read_dir(folder) else { return found };
    for file in files.filter_map(Result::ok) {
        let name = file.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(&prefix) && !name.contains('.')) else {
            continue;
        };
        let path = folder.join(name);
        let Some(entry) = Entry::read(&path) else { continue };
        if path != file_of(folder, topic, &entry.node) {
            continue;
        }
        if is_alive(&entry) {
            found.insert(entry.node, entry);
        } else if Entry::read(&path).as_ref() == Some(&entry) {
            // Read again: its owner may have come back with the same key in the meantime.
            let _ = fs::remove_file(&path);
        }
        if found.len() >= MAX_ENTRIES {
            break;
        }
    }
    found
}

/// For `join`: puts who is there now into the address book and names them.
pub fn scan_into_book(core: &Core, topic: &TopicId) -> Vec<EndpointId> {
    let Some(folder) = &core.settings.rendezvous_dir else { return Vec::new() };
    let mut found = scan(folder, topic);
    found.remove(&core.id);
    for entry in found.values() {
        core.book.replace(entry.node, &entry.addresses);
    }
    found.into_keys().collect()
}

/// Publishes our entry and reports who comes and goes, for as long as the node lives.
pub async fn watch(core: Arc<Core>, topic: TopicId) {
    let Some(folder) = core.settings.rendezvous_dir.clone() else { return };
    let path = file_of(&folder, &topic, &core.id);
    let own = Entry::of(&core);
    let mut known: HashMap<EndpointId, Entry> = HashMap::new();
    let mut first = true;
    let mut ticks = time::interval(POLL);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut found = scan(&folder, &topic);
        // Missing at first, and after somebody cleaned the folder. An entry of another living process
        // with our key is replaced once: two such processes must not fight over the file for ever.
        let entry = found.remove(&core.id);
        if entry.is_none() || (first && entry.as_ref() != Some(&own)) {
            core.publish(&path, || {
                // A full disk or a removed folder: tried again at the next tick.
                let _ = prepare(&folder).map(|()| own.write(&path));
            });
        }
        first = false;
        for (node, entry) in &found {
            if known.get(node) != Some(entry) {
                core.book.replace(*node, &entry.addresses);
                core.queue.push(Event::PeerFound(*node, entry.addresses.clone()));
            }
        }
        for node in known.keys().filter(|node| !found.contains_key(*node)) {
            core.book.remove(node);
            core.queue.push(Event::PeerGone(*node));
        }
        known = found;
    }
}

/// Removes our entry, unless another process with the same key has replaced it.
pub fn withdraw(core: &Core, path: &Path) {
    if Entry::read(path).is_some_and(|entry| entry == Entry::of(core)) {
        let _ = fs::remove_file(path);
    }
}
