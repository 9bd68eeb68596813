//! The address book: which nodes are known, and where. It feeds iroh's dialling and the maintainer.
//!
//! iroh-gossip forgets addresses after five minutes; this book forgets only when it is told to.

use std::{collections::HashMap, net::SocketAddr, sync::Mutex, time::Instant};

use iroh::{EndpointAddr, EndpointId, address_lookup::memory::MemoryLookup};

use crate::runtime::lock;

/// Same as the protocol's roster of signers: a flood of invented nodes must not grow without end.
const MAX_NODES: usize = 4096;
/// An announce carries at most as many.
const MAX_ADDRESSES: usize = 8;

#[derive(Debug)]
struct Entry {
    /// Newest first.
    addresses: Vec<SocketAddr>,
    touched: Instant,
}

#[derive(Debug)]
pub struct Book {
    me: EndpointId,
    entries: Mutex<HashMap<EndpointId, Entry>>,
    lookup: MemoryLookup,
}

impl Book {
    pub fn new(me: EndpointId) -> Self {
        Book { me, entries: Mutex::default(), lookup: MemoryLookup::with_provenance("llama_gossip") }
    }

    /// The same addresses as iroh's dialling sees them.
    pub fn lookup(&self) -> MemoryLookup {
        self.lookup.clone()
    }

    /// Adds addresses in front of those known; the oldest beyond eight fall out.
    pub fn add(&self, node: EndpointId, addresses: &[SocketAddr]) {
        self.update(node, addresses, true);
    }

    /// Replaces all addresses: the source (a rendezvous entry) knows that the old ones are dead.
    pub fn replace(&self, node: EndpointId, addresses: &[SocketAddr]) {
        self.update(node, addresses, false);
    }

    fn update(&self, node: EndpointId, addresses: &[SocketAddr], keep: bool) {
        if node == self.me || addresses.is_empty() {
            return;
        }
        let mut entries = lock(&self.entries);
        if entries.len() >= MAX_NODES && !entries.contains_key(&node) {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.touched).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                entries.remove(&oldest);
                self.lookup.remove_endpoint_info(oldest);
            }
        }
        let entry =
            entries.entry(node).or_insert_with(|| Entry { addresses: Vec::new(), touched: Instant::now() });
        let known = if keep { &entry.addresses[..] } else { &[] };
        let mut merged = Vec::with_capacity(MAX_ADDRESSES);
        for address in addresses.iter().chain(known) {
            if merged.len() < MAX_ADDRESSES && !merged.contains(address) {
                merged.push(*address);
            }
        }
        entry.touched = Instant::now();
        if entry.addresses != merged {
            entry.addresses = merged;
            let info = entry
                .addresses
                .iter()
                .fold(EndpointAddr::new(node), |info, address| info.with_ip_addr(*address));
            self.lookup.set_endpoint_info(info);
        }
    }

    pub fn remove(&self, node: &EndpointId) {
        lock(&self.entries).remove(node);
        self.lookup.remove_endpoint_info(*node);
    }

    /// All known nodes, the most recently heard of first.
    pub fn nodes(&self) -> Vec<EndpointId> {
        let entries = lock(&self.entries);
        let mut nodes: Vec<(Instant, EndpointId)> =
            entries.iter().map(|(node, entry)| (entry.touched, *node)).collect();
        nodes.sort_unstable_by_key(|(touched, _)| std::cmp::Reverse(*touched));
        nodes.into_iter().map(|(_, node)| node).collect()
    }
}
