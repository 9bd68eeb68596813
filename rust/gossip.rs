//! The gossip topic behind a guard: what iroh-gossip would lose silently is refused loudly here.
//!
//! Oversize broadcasts mute a node for ever, unheard ones vanish, floods lose most of themselves: so
//! size, neighbours and a token bucket are checked before anything reaches iroh-gossip. Its receiver
//! is drained at once by a task of ours; Python never paces it.

use std::sync::Arc;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{EndpointId, endpoint::VarInt};
use iroh_gossip::{
    api::{self, GossipReceiver, GossipSender, JoinOptions},
    net::GOSSIP_ALPN,
    proto::{HyparviewConfig, TopicId},
};
use n0_future::StreamExt;
use tokio::{sync::Notify, task::JoinSet, time};

use crate::{
    core::Core,
    discovery,
    error::{Error, Failure},
    events::{Event, OpResult},
    maintainer,
    runtime::lock,
};

/// Protocol constant: equal on all nodes, or one direction between unequal ones dies silently.
pub const MAX_MESSAGE_SIZE: usize = 65_536;
/// PROTOCOL §2: the topic limit less iroh-gossip's own framing, with room to spare.
pub const MAX_GOSSIP_BYTES: usize = 60_000;
/// With at most nine nodes every message is one hop.
pub const ACTIVE_VIEW: usize = 8;
const PASSIVE_VIEW: usize = 64;
/// Between iroh-gossip and our own drop-oldest queue; our task empties it at once.
const SUBSCRIPTION_CAPACITY: usize = 8192;
/// Waiting broadcasts beyond this mean that a stalled peer freezes the topic (hazard 4).
const MAX_WAITING: usize = 256;
/// NATIVE §0.4 and PROTOCOL §6: the reset dial at the start.
const RESET_DIAL: Duration = Duration::from_secs(1);
const RESET_HOLD: Duration = Duration::from_millis(50);
const MAX_START_DIALS: usize = 32;
/// After a lag of iroh-gossip neighbour events may be missing; a new subscription lists them within this.
const RESYNC: Duration = Duration::from_millis(300);

/// Our queue, iroh-gossip's and the link together take 2 ms, or 90: a connection that has just lost a packet
/// waits for so long until it sends again. Measured between two nodes while a third had come and gone.
const LINGER: Duration = Duration::from_millis(200);

pub fn membership() -> HyparviewConfig {
    HyparviewConfig {
        active_view_capacity: ACTIVE_VIEW,
        passive_view_capacity: PASSIVE_VIEW,
        ..Default::default()
    }
}

/// Tokens for a second's worth of messages; the last fifth is for urgent ones.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Debug, Default)]
struct Outbox {
    urgent: VecDeque<Bytes>,
    normal: VecDeque<Bytes>,
    /// Since when iroh-gossip has not taken the message that we are handing over.
    stuck_since: Option<Instant>,
    /// When a message last went in: what was said just before a close is still on its way.
    last_in: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub rate_limited: AtomicU64,
    pub rejoins: AtomicU64,
    pub redials: AtomicU64,
}

#[derive(Debug)]
pub struct Topic {
    rate: f64,
    id: OnceLock<TopicId>,
    pub sender: OnceLock<GossipSender>,
    neighbors: Mutex<BTreeSet<EndpointId>>,
    bucket: Mutex<Bucket>,
    outbox: Mutex<Outbox>,
    out_wake: Notify,
    pub counters: Counters,
}

impl Topic {
    pub fn new(per_second: u32) -> Self {
        let rate = f64::from(per_second);
        Topic {
            rate,
            id: OnceLock::new(),
            sender: OnceLock::new(),
            neighbors: Mutex::default(),
            bucket: Mutex::new(Bucket { tokens: rate.max(2.0), at: Instant::now() }),
            outbox: Mutex::default(),
            out_wake: Notify::new(),
            counters: Counters::default(),
        }
    }

    /// Binds the node to its one topic.
    pub fn claim(&self, topic: [u8; 32]) -> Result<TopicId, Error> {
        let topic = TopicId::from_bytes(topic);
        self.id
            .set(topic)
            .map(|()| topic)
            .map_err(|_| Error::Config("topic: this node has joined one already".to_owned()))
    }

    pub fn neighbors(&self) -> Vec<EndpointId> {
        lock(&self.neighbors).iter().copied().collect()
    }

    pub fn is_neighbor(&self, node: &EndpointId) -> bool {
        lock(&self.neighbors).contains(node)
    }

    pub fn broadcast(&self, data: Bytes, urgent: bool) -> Result<(), Error> {
        if data.len() > MAX_GOSSIP_BYTES {
            return Err(Error::Oversize { size: data.len(), limit: MAX_GOSSIP_BYTES });
        }
        if self.sender.get().is_none() {
            return Err(Error::NotJoined);
        }
        if lock(&self.neighbors).is_empty() {
            return Err(Error::NoNeighbor);
        }
        let mut outbox = lock(&self.outbox);
        let refusal = if outbox.urgent.len() + outbox.normal.len() >= MAX_WAITING {
            Some(Error::Congested)
        } else if !self.take_token(urgent) {
            Some(Error::RateLimited)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.counters.rate_limited.fetch_add(1, Ordering::Relaxed);
            return Err(refusal);
        }
        self.counters.sent.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        outbox.last_in = Some(Instant::now());
        if urgent {
            outbox.urgent.push_back(data)
        } else {
            outbox.normal.push_back(data)
        }
        drop(outbox);
        self.out_wake.notify_one();
        Ok(())
    }

    fn take_token(&self, urgent: bool) -> bool {
        let capacity = self.rate.max(2.0);
        let mut bucket = lock(&self.bucket);
        let now = Instant::now();
        let earned = now.duration_since(bucket.at).as_secs_f64() * self.rate;
        bucket.tokens = (bucket.tokens + earned).min(capacity);
        bucket.at = now;
        let reserve = if urgent { 0.0 } else { (capacity / 5.0).max(1.0) };
        let granted = bucket.tokens >= 1.0 + reserve;
        if granted {
            bucket.tokens -= 1.0;
        }
        granted
    }

    fn next_outbound(&self) -> Option<Bytes> {
        let mut outbox = lock(&self.outbox);
        let next = outbox.urgent.pop_front().or_else(|| outbox.normal.pop_front());
        outbox.stuck_since = next.as_ref().map(|_| Instant::now());
        next
    }

    /// Until when a last message is given time to leave: a QUIC close discards what its peer has not read.
    pub fn lingers_until(&self) -> Option<Instant> {
        if lock(&self.neighbors).is_empty() {
            return None;
        }
        lock(&self.outbox).last_in.map(|at| at + LINGER)
    }

    /// How long iroh-gossip has refused to take the current message.
    pub fn stuck_for(&self) -> Duration {
        lock(&self.outbox).stuck_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The operation behind `join`.
pub async fn join(core: Arc<Core>, topic: TopicId, bootstrap: Vec<EndpointId>) -> Result<OpResult, Failure> {
    core.endpoint().await?;
    let mut known = bootstrap;
    known.extend(discovery::scan_into_book(&core, &topic));
    known.extend(core.book.nodes());
    let mut seen = BTreeSet::new();
    known.retain(|node| *node != core.id && core.peers.is_allowed(node) && seen.insert(*node));
    known.truncate(MAX_START_DIALS);
    let reached = reset_dial(&core, known).await;
    core.peers.gossip_open.store(true, Ordering::Relaxed);
    let options = JoinOptions { bootstrap: reached, subscription_capacity: SUBSCRIPTION_CAPACITY };
    let (sender, receiver) = core
        .gossip()?
        .subscribe_with_opts(topic, options)
        .await
        .map_err(|error| Failure::new("lost", error.to_string()))?
        .split();
    // `claim` let one join through, so this is the first.
    let _ = core.topic.sender.set(sender.clone());
    core.spawn(receive(core.clone(), topic, receiver));
    core.spawn(send(core.clone(), sender.clone()));
    core.spawn(maintainer::run(core.clone(), sender));
    core.spawn(maintainer::watch_stalls(core.clone(), topic));
    core.spawn(discovery::watch(core.clone(), topic));
    Ok(OpResult::Nothing)
}

/// Dials every known node once and closes at once: peers that still take us for the process that
/// died with this key clear what they remember of it (hazard 1). Must never run after subscribing.
/// Returns who answered; a dial that fails inside iroh-gossip would block that peer for good.
async fn reset_dial(core: &Arc<Core>, known: Vec<EndpointId>) -> BTreeSet<EndpointId> {
    let mut dials = JoinSet::new();
    for node in known {
        let core = core.clone();
        dials.spawn(async move {
            let endpoint = core.endpoint().await.ok()?;
            let connection =
                time::timeout(RESET_DIAL, endpoint.connect(node, GOSSIP_ALPN)).await.ok()?.ok()?;
            time::sleep(RESET_HOLD).await;
            let alive = connection.close_reason().is_none();
            connection.close(VarInt::from_u32(0), b"reset");
            alive.then_some(node)
        });
    }
    let mut reached = BTreeSet::new();
    while let Some(outcome) = dials.join_next().await {
        reached.extend(outcome.ok().flatten());
    }
    reached
}

/// Hands messages to iroh-gossip, urgent ones first.
async fn send(core: Arc<Core>, sender: GossipSender) {
    loop {
        match core.topic.next_outbound() {
            Some(data) => {
                if sender.broadcast(data).await.is_err() {
                    return;
                }
            }
            None => core.topic.out_wake.notified().await,
        }
    }
}

/// Neighbours as a new subscription lists them, gathered until a moment.
struct Resync {
    until: time::Instant,
    seen: BTreeSet<EndpointId>,
    old: GossipReceiver,
}

/// Moves everything that the topic brings into the event queue.
async fn receive(core: Arc<Core>, topic: TopicId, mut receiver: GossipReceiver) {
    let mut resync: Option<Resync> = None;
    loop {
        let until = resync.as_ref().map(|resync| resync.until);
        let event = match until {
            None => receiver.next().await,
            Some(until) => match time::timeout_at(until, receiver.next()).await {
                Ok(event) => event,
                Err(_) => {
                    if let Some(resync) = resync.take() {
                        drop(resync.old);
                        for gone in core.topic.neighbors() {
                            if !resync.seen.contains(&gone) {
                                set_neighbor(&core, gone, false);
                            }
                        }
                    }
                    continue;
                }
            },
        };
        match event {
            Some(Ok(api::Event::Received(message))) => {
                let counters = &core.topic.counters;
                counters.received.fetch_add(1, Ordering::Relaxed);
                counters.bytes_received.fetch_add(message.content.len() as u64, Ordering::Relaxed);
                core.queue.push(Event::Gossip(message.delivered_from, message.content));
            }
            Some(Ok(api::Event::NeighborUp(node))) => {
                if let Some(resync) = &mut resync {
                    resync.seen.insert(node);
                }
                set_neighbor(&core, node, true);
            }
            Some(Ok(api::Event::NeighborDown(node))) => {
                if let Some(resync) = &mut resync {
                    resync.seen.remove(&node);
                }
                set_neighbor(&core, node, false);
            }
            Some(Ok(api::Event::Lagged)) => {
                // iroh-gossip does not say how many: at least one.
                core.queue.add_lag(1);
                if resync.is_none()
                    && let Ok(fresh) = subscribe_again(&core, topic).await
                {
                    let old = std::mem::replace(&mut receiver, fresh);
                    resync =
                        Some(Resync { until: time::Instant::now() + RESYNC, seen: BTreeSet::new(), old });
                }
            }
            Some(Err(_)) | None => {
                core.fail("gossip has ended");
                return;
            }
        }
    }
}

/// One more subscription to the joined topic; it begins with the neighbours there are.
pub async fn subscribe_again(core: &Arc<Core>, topic: TopicId) -> Result<GossipReceiver, Failure> {
    let options = JoinOptions { bootstrap: BTreeSet::new(), subscription_capacity: SUBSCRIPTION_CAPACITY };
    let subscription = core.gossip()?.subscribe_with_opts(topic, options).await;
    Ok(subscription.map_err(|error| Failure::new("lost", error.to_string()))?.split().1)
}

fn set_neighbor(core: &Core, node: EndpointId, up: bool) {
    let mut neighbors = lock(&core.topic.neighbors);
    let changed = if up { neighbors.insert(node) } else { neighbors.remove(&node) };
    drop(neighbors);
    if changed {
        core.queue.push(if up { Event::NeighborUp(node) } else { Event::NeighborDown(node) });
    }
}
