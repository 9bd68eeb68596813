//! The hook at the handshake: who may connect, in both directions, and a weak table of what did.
//!
//! Weak, because a strong connection in a hook would keep it alive after its user dropped it. The
//! table is how the maintainer finds the gossip connections that iroh-gossip hides.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use iroh::{
    EndpointAddr, EndpointId,
    endpoint::{
        AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, Side, VarInt,
        WeakConnectionHandle,
    },
};
use iroh_gossip::net::GOSSIP_ALPN;

use crate::runtime::lock;

/// Close codes of a connection, in the manner of HTTP: they are for people who read traces.
pub const CODE_NOT_ALLOWED: VarInt = VarInt::from_u32(403);
pub const CODE_BUSY: VarInt = VarInt::from_u32(429);

/// Gossip needs one connection a neighbour (8) and a few in passing; a flood of them is refused.
const MAX_GOSSIP_CONNECTIONS: usize = 256;
/// iroh-gossip 0.101 never drops superseded connections of a peer; the older of more than this many
/// are closed here. Not fewer: the two sides may disagree about which of two is the newest.
const MAX_GOSSIP_CONNECTIONS_PER_PEER: usize = 3;
/// Gossip frames are at most 64 KiB; this holds a few dozen of them.
const GOSSIP_RECEIVE_WINDOW: VarInt = VarInt::from_u32(1 << 20);

/// A connection as the maintainer sees it.
#[derive(Debug)]
struct Tracked {
    weak: WeakConnectionHandle,
    gossip: bool,
    inbound: bool,
    since: Instant,
    /// Datagrams received when last looked at, and when that number last rose.
    received: u64,
    heard: Instant,
}

impl Tracked {
    fn live(&self) -> Option<Connection> {
        self.weak.upgrade().filter(|connection| connection.close_reason().is_none())
    }
}

#[derive(Debug, Default)]
pub struct Peers {
    allowlist: RwLock<Option<HashSet<EndpointId>>>,
    tracked: Mutex<HashMap<EndpointId, Vec<Tracked>>>,
    pub refused: AtomicU64,
    /// Gossip connections are taken in. Not before the reset dial of `join` is over: iroh-gossip would
    /// send our Join over a connection that the peer's side has already replaced, and the peer's
    /// answer would go to the replacement that the reset has just closed (seen: half a neighbour).
    pub gossip_open: AtomicBool,
}

impl Peers {
    pub fn is_allowed(&self, node: &EndpointId) -> bool {
        let allowlist = self.allowlist.read().unwrap_or_else(PoisonError::into_inner);
        allowlist.as_ref().is_none_or(|allowed| allowed.contains(node))
    }

    /// Replaces the list and closes what it no longer covers.
    pub fn set_allowlist(&self, allowlist: Option<Vec<EndpointId>>) {
        let allowlist = allowlist.map(HashSet::from_iter);
        *self.allowlist.write().unwrap_or_else(PoisonError::into_inner) = allowlist;
        for (node, connections) in &*lock(&self.tracked) {
            if !self.is_allowed(node) {
                for connection in connections.iter().filter_map(Tracked::live) {
                    connection.close(CODE_NOT_ALLOWED, b"not allowed");
                }
            }
        }
    }

    /// Closes our gossip connections to a node; how many there were.
    pub fn close_gossip(&self, node: &EndpointId, reason: &[u8]) -> usize {
        let mut tracked = lock(&self.tracked);
        let Some(connections) = tracked.get_mut(node) else { return 0 };
        let mut closed = 0;
        for connection in connections.iter().filter(|tracked| tracked.gossip).filter_map(Tracked::live) {
            connection.close(VarInt::from_u32(0), reason);
            closed += 1;
        }
        connections.retain(|tracked| !tracked.gossip);
        closed
    }

    /// Closes every connection that carries streams: the peers' streams are then lost, all in the same
    /// way, before our tasks can end them one by one.
    pub fn close_streams(&self, reason: &[u8]) {
        for connections in lock(&self.tracked).values() {
            for connection in connections.iter().filter(|tracked| !tracked.gossip).filter_map(Tracked::live) {
                connection.close(VarInt::from_u32(0), reason);
            }
        }
    }

    /// Since when the newest gossip connection that this node opened to us lives.
    pub fn newest_inbound_gossip(&self, node: &EndpointId) -> Option<Instant> {
        let tracked = lock(&self.tracked);
        let connections = tracked.get(node)?;
        connections
            .iter()
            .filter(|tracked| tracked.gossip && tracked.inbound && tracked.live().is_some())
            .map(|tracked| tracked.since)
            .max()
    }

    /// A live connection to a node, the newest first.
    pub fn connection(&self, node: &EndpointId) -> Option<Connection> {
        lock(&self.tracked).get(node)?.iter().rev().find_map(Tracked::live)
    }

    /// Nodes with a gossip connection on which nothing, not even a keep-alive, came for `silence`.
    pub fn silent(&self, silence: Duration) -> Vec<EndpointId> {
        let now = Instant::now();
        let mut silent = Vec::new();
        for (node, connections) in &mut *lock(&self.tracked) {
            for tracked in connections.iter_mut().filter(|tracked| tracked.gossip) {
                let Some(connection) = tracked.live() else { continue };
                let received = connection.stats().udp_rx.datagrams;
                if received != tracked.received {
                    tracked.received = received;
                    tracked.heard = now;
                } else if now.duration_since(tracked.heard) >= silence && !silent.contains(node) {
                    silent.push(*node);
                }
            }
        }
        silent
    }

    /// Live connections; forgets the dead ones.
    pub fn count(&self) -> usize {
        let mut tracked = lock(&self.tracked);
        forget_dead(&mut tracked);
        tracked.values().map(Vec::len).sum()
    }

    fn refuse(&self, error_code: VarInt, reason: &[u8]) -> AfterHandshakeOutcome {
        self.refused.fetch_add(1, Ordering::Relaxed);
        AfterHandshakeOutcome::Reject { error_code, reason: reason.to_vec() }
    }

    fn admit(&self, connection: &Connection) -> AfterHandshakeOutcome {
        let node = connection.remote_id();
        // Locked before the list is asked: `set_allowlist` then either finds this connection in the
        // table or was there before us.
        let mut tracked = lock(&self.tracked);
        if !self.is_allowed(&node) {
            return self.refuse(CODE_NOT_ALLOWED, b"not allowed");
        }
        let gossip = connection.alpn() == GOSSIP_ALPN;
        let inbound = connection.side() == Side::Server;
        if gossip && inbound && !self.gossip_open.load(Ordering::Relaxed) {
            return AfterHandshakeOutcome::Reject { error_code: CODE_BUSY, reason: b"not joined".to_vec() };
        }
        if inbound {
            // Anybody may come under a new name each time, so the dead are forgotten here.
            forget_dead(&mut tracked);
        }
        if gossip && inbound {
            let count = tracked.values().flatten().filter(|tracked| tracked.gossip).count();
            if count >= MAX_GOSSIP_CONNECTIONS {
                return self.refuse(CODE_BUSY, b"busy");
            }
        }
        if gossip {
            connection.set_receive_window(GOSSIP_RECEIVE_WINDOW);
        }
        let connections = tracked.entry(node).or_default();
        let now = Instant::now();
        connections.push(Tracked {
            weak: connection.weak_handle(),
            gossip,
            inbound,
            since: now,
            received: 0,
            heard: now,
        });
        let surplus = connections
            .iter()
            .filter(|tracked| tracked.gossip)
            .count()
            .saturating_sub(MAX_GOSSIP_CONNECTIONS_PER_PEER);
        for old in connections.iter().filter(|tracked| tracked.gossip).take(surplus) {
            if let Some(connection) = old.live() {
                connection.close(VarInt::from_u32(0), b"superseded");
            }
        }
        connections.retain(|tracked| tracked.live().is_some());
        AfterHandshakeOutcome::Accept
    }
}

fn forget_dead(tracked: &mut HashMap<EndpointId, Vec<Tracked>>) {
    tracked.retain(|_, connections| {
        connections.retain(|tracked| tracked.live().is_some());
        !connections.is_empty()
    });
}

/// What the endpoint owns; never the endpoint itself, which would be a cycle.
#[derive(Debug, Clone)]
pub struct Hook(pub std::sync::Arc<Peers>);

impl EndpointHooks for Hook {
    async fn before_connect<'a>(&'a self, remote: &'a EndpointAddr, _: &'a [u8]) -> BeforeConnectOutcome {
        if self.0.is_allowed(&remote.id) {
            BeforeConnectOutcome::Accept
        } else {
            BeforeConnectOutcome::Reject
        }
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        self.0.admit(connection)
    }
}
