//! Keeps the topic joined: iroh-gossip neither heals cuts nor recovers from a restarted peer.
//!
//! The one repair that was measured to work (NATIVE §4): close our own gossip connections to the
//! peer, dial it ourselves, hand the connection over, join. It also cures a peer entry that a failed
//! dial poisoned, and an outbound side that went mute.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use iroh::EndpointId;
use iroh_gossip::{api::GossipSender, net::GOSSIP_ALPN, proto::TopicId};
use n0_future::StreamExt;
use tokio::{task::JoinSet, time};

use crate::{
    core::Core,
    gossip::{self, ACTIVE_VIEW},
};

const TICK: Duration = Duration::from_millis(500);
/// In larger networks HyParView fills the view by itself, and joining evicts somebody else's
/// neighbour: insisting on a full view would never come to rest.
const ENOUGH: usize = 5;
/// Repairs a tick; a handful, so that a cut of many peers heals in seconds without a storm.
const REPAIRS: usize = 4;
const DIAL: Duration = Duration::from_secs(3);
/// Between closing and dialling, so that iroh-gossip sees the end of the old connection first.
const SETTLE: Duration = Duration::from_millis(50);
/// Within this the answer to a Join makes the peer a neighbour.
const ANSWER: Duration = Duration::from_millis(600);
/// The back-off of a peer, and how long it must stay a neighbour to earn a fresh one.
const BACKOFF_MIN: Duration = Duration::from_secs(3);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const STABLE: Duration = Duration::from_secs(10);
/// Both sides miss each other at once. The one with the smaller id repairs first; the other waits
/// longer, or each would close what the other has just built.
const GRACE_FIRST: Duration = Duration::from_millis(300);
const GRACE_SECOND: Duration = Duration::from_millis(2000);
/// A gossip connection that a peer has just opened gets this long to make it a neighbour.
const INBOUND_GRACE: Duration = Duration::from_secs(2);
/// A topic that takes no message for STUCK is frozen by a peer; keep-alives come every 2 s, so one
/// that sent nothing for SILENT is it.
const STUCK: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(3);

/// What is known of a peer that is not, or not yet for long, a neighbour.
#[derive(Debug)]
struct Record {
    missing_since: Option<Instant>,
    neighbor_since: Option<Instant>,
    backoff: Duration,
    not_before: Instant,
}

pub async fn run(core: Arc<Core>, sender: GossipSender) {
    let mut records: HashMap<EndpointId, Record> = HashMap::new();
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.dials.prune();
        let due = due(&core, &mut records, Instant::now());
        repair_all(&core, &sender, due).await;
    }
}

/// A task of its own: repairs may take seconds, a frozen topic should not.
pub async fn watch_stalls(core: Arc<Core>, topic: TopicId) {
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let silent = core.peers.silent(SILENT);
        if !silent.is_empty() && is_frozen(&core, topic).await {
            for node in silent {
                core.peers.close_gossip(&node, b"stalled");
            }
        }
    }
}

/// Whether iroh-gossip's one actor waits for a peer. Asked only when one is silent: a subscription
/// lists the neighbours at once, unless nobody is there to answer.
async fn is_frozen(core: &Arc<Core>, topic: TopicId) -> bool {
    if core.topic.stuck_for() >= STUCK {
        return true;
    }
    if core.topic.neighbors().is_empty() {
        return false;
    }
    let probe = async { Some(gossip::subscribe_again(core, topic).await.ok()?.next().await) };
    time::timeout(STUCK, probe).await.is_err()
}

/// Brings the records up to date and picks who is to be repaired now.
fn due(core: &Core, records: &mut HashMap<EndpointId, Record>, now: Instant) -> Vec<EndpointId> {
    let mut known = core.book.nodes();
    known.retain(|node| core.peers.is_allowed(node));
    let in_book: HashSet<EndpointId> = known.iter().copied().collect();
    records.retain(|node, _| in_book.contains(node));
    // Neighbours that the book does not name count too: of six known, six are wanted, whoever they are.
    let neighbors = core.topic.neighbors();
    let there_are = in_book.union(&neighbors.iter().copied().collect()).count();
    let target = if there_are <= ACTIVE_VIEW { there_are } else { ENOUGH };
    let wanted = target.saturating_sub(neighbors.len());
    let mut due = Vec::new();
    for node in known {
        let record = records.entry(node).or_insert_with(|| Record {
            missing_since: None,
            neighbor_since: None,
            backoff: BACKOFF_MIN,
            not_before: now,
        });
        if core.topic.is_neighbor(&node) {
            record.missing_since = None;
            let since = *record.neighbor_since.get_or_insert(now);
            if now.duration_since(since) >= STABLE {
                record.backoff = BACKOFF_MIN;
                record.not_before = now;
            }
            continue;
        }
        record.neighbor_since = None;
        let missing_since = *record.missing_since.get_or_insert(now);
        let grace = if core.id < node { GRACE_FIRST } else { GRACE_SECOND };
        let inbound = core.peers.newest_inbound_gossip(&node);
        let fresh_inbound = inbound.is_some_and(|since| now.duration_since(since) < INBOUND_GRACE);
        let ready = now >= record.not_before && now.duration_since(missing_since) >= grace && !fresh_inbound;
        if ready && due.len() < wanted.min(REPAIRS) {
            record.not_before = now + record.backoff;
            record.backoff = (record.backoff * 2).min(BACKOFF_MAX);
            due.push(node);
        }
    }
    due
}

async fn repair_all(core: &Arc<Core>, sender: &GossipSender, nodes: Vec<EndpointId>) {
    let mut repairs = JoinSet::new();
    for node in nodes {
        let (core, sender) = (core.clone(), sender.clone());
        repairs.spawn(async move { repair(&core, &sender, node).await });
    }
    while repairs.join_next().await.is_some() {}
}

/// Two rounds: the peer clears what it remembers of us when the connection closes that it held for
/// our newest. Where that was not ours to close, the first round gives it one that the second closes.
async fn repair(core: &Core, sender: &GossipSender, node: EndpointId) {
    for _ in 0..2 {
        if !reconnect(core, sender, node).await {
            return;
        }
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            time::sleep(SETTLE).await;
            if core.topic.is_neighbor(&node) {
                return;
            }
        }
    }
}

async fn reconnect(core: &Core, sender: &GossipSender, node: EndpointId) -> bool {
    let counters = &core.topic.counters;
    counters.redials.fetch_add(1, Ordering::Relaxed);
    if core.peers.close_gossip(&node, b"rejoin") > 0 {
        time::sleep(SETTLE).await;
    }
    let Ok(endpoint) = core.endpoint().await else { return false };
    let Ok(Ok(connection)) = time::timeout(DIAL, endpoint.connect(node, GOSSIP_ALPN)).await else {
        return false;
    };
    let Ok(gossip) = core.gossip() else { return false };
    let joined =
        gossip.handle_connection(connection).await.is_ok() && sender.join_peers(vec![node]).await.is_ok();
    if joined {
        counters.rejoins.fetch_add(1, Ordering::Relaxed);
    }
    joined
}

/// The cure for a mute outbound side: all gossip connections anew.
pub async fn rebuild(core: Arc<Core>) {
    let Some(sender) = core.topic.sender.get() else { return };
    let mut nodes = core.topic.neighbors();
    for node in core.book.nodes() {
        if nodes.len() < ACTIVE_VIEW && !nodes.contains(&node) && core.peers.is_allowed(&node) {
            nodes.push(node);
        }
    }
    repair_all(&core, sender, nodes).await;
}
