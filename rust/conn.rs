//! Connections that carry streams: limits for strangers, credit for all, and the cache of dials.
//!
//! A connection serves the side that dialled it: streams are opened on dialled connections only and
//! accepted on inbound ones only. Until its first valid Assign (`trust`) an inbound connection is a
//! stranger's: few streams, a small window, a share of one common budget.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use iroh::{
    EndpointId,
    endpoint::{Connection, VarInt},
    protocol::{AcceptError, ProtocolHandler},
};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

use crate::{
    core::Core,
    error::Failure,
    peers::CODE_BUSY,
    runtime::lock,
    streams::{self, Opened},
};

/// PROTOCOL §2: open streams before and after a connection's first valid Assign.
pub const STREAMS_UNTRUSTED: usize = 8;
const STREAMS_TRUSTED: usize = 1024;
/// PROTOCOL §2: connections without a valid Assign.
const MAX_STRANGERS: usize = 32;
/// PROTOCOL §2 gives strangers 16 MiB in all. 32 windows of 256 KiB may sit unread in QUIC (8 MiB),
/// and every open stream may pass the check with one last chunk of 16 KiB (4 MiB): this is the rest.
const STRANGER_BYTES: i64 = 4 << 20;
/// The receive window every connection starts with, and the one after trust or by our own dial.
pub const WINDOW_UNTRUSTED: VarInt = VarInt::from_u32(256 << 10);
pub const WINDOW_TRUSTED: VarInt = VarInt::from_u32(4 << 20);

/// A dialled connection without a stream is kept this long: every one costs keep-alives.
const IDLE_DIAL: Duration = Duration::from_secs(60);

/// What all strangers of a node share.
#[derive(Debug, Default)]
pub struct Strangers {
    /// Weak, or the two would hold each other for ever.
    connections: Mutex<Vec<Weak<Conn>>>,
    bytes: Mutex<i64>,
    wake: Notify,
}

#[derive(Debug)]
struct Account {
    /// Bytes handed to the application and not yet given back, and the cost of the events that wait.
    unread: i64,
    trusted: bool,
}

#[derive(Debug)]
pub struct Conn {
    pub peer: EndpointId,
    pub quic: Connection,
    account: Mutex<Account>,
    /// Credit came back.
    pub wake: Notify,
    /// Accepted streams whose last event has not been taken yet: QUIC frees a stream when both ends
    /// are done with it, which a hostile peer can arrange at any rate.
    permits: Arc<Semaphore>,
    pub open: AtomicUsize,
    credit: i64,
    strangers: Arc<Strangers>,
}

impl Conn {
    fn new(core: &Core, quic: Connection, trusted: bool) -> Arc<Self> {
        if trusted {
            quic.set_receive_window(WINDOW_TRUSTED);
        }
        Arc::new(Conn {
            peer: quic.remote_id(),
            quic,
            account: Mutex::new(Account { unread: 0, trusted }),
            wake: Notify::new(),
            permits: Arc::new(Semaphore::new(STREAMS_UNTRUSTED)),
            open: AtomicUsize::new(0),
            credit: core.settings.connection_credit as i64,
            strangers: core.strangers.clone(),
        })
    }

    /// Alive, or gone and leaving behind streams that the application has not taken yet: who comes and
    /// goes must not get more of a busy node than who stays.
    fn takes_a_place(&self) -> bool {
        self.quic.close_reason().is_none() || self.open.load(Ordering::Relaxed) > 0
    }

    pub fn is_trusted(&self) -> bool {
        lock(&self.account).trusted
    }

    pub fn strangers_wake(&self) -> &Notify {
        &self.strangers.wake
    }

    /// Whether the application has room for more of this connection.
    pub fn has_room(&self) -> bool {
        let account = lock(&self.account);
        account.unread < self.credit && (account.trusted || *lock(&self.strangers.bytes) < STRANGER_BYTES)
    }

    pub fn charge(&self, count: u64) {
        let mut account = lock(&self.account);
        account.unread += count as i64;
        if !account.trusted {
            *lock(&self.strangers.bytes) += count as i64;
        }
    }

    pub fn release(&self, count: u64) {
        if count == 0 {
            return;
        }
        let mut account = lock(&self.account);
        account.unread -= count as i64;
        if !account.trusted {
            *lock(&self.strangers.bytes) -= count as i64;
            self.strangers.wake.notify_waiters();
        }
        drop(account);
        self.wake.notify_waiters();
    }

    pub fn trust(&self) {
        let mut account = lock(&self.account);
        if account.trusted {
            return;
        }
        account.trusted = true;
        *lock(&self.strangers.bytes) -= account.unread;
        drop(account);
        lock(&self.strangers.connections).retain(|other| !std::ptr::eq(other.as_ptr(), self));
        self.permits.add_permits(STREAMS_TRUSTED - STREAMS_UNTRUSTED);
        self.quic.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS_TRUSTED as u32));
        self.quic.set_receive_window(WINDOW_TRUSTED);
        self.strangers.wake.notify_waiters();
        self.wake.notify_waiters();
    }
}

impl Strangers {
    /// Takes in a stranger; when the house is full, the oldest without an open stream makes room.
    fn admit(&self, conn: &Arc<Conn>) -> bool {
        let mut connections = lock(&self.connections);
        connections.retain(|other| other.upgrade().is_some_and(|other| other.takes_a_place()));
        if connections.len() >= MAX_STRANGERS {
            let open =
                |other: &Weak<Conn>| other.upgrade().map_or(0, |other| other.open.load(Ordering::Relaxed));
            let Some(idle) = connections.iter().position(|other| open(other) == 0) else { return false };
            if let Some(idle) = connections.remove(idle).upgrade() {
                idle.quic.close(CODE_BUSY, b"busy");
            }
        }
        connections.push(Arc::downgrade(conn));
        true
    }
}

/// Serves inbound connections of our ALPN.
#[derive(Debug, Clone)]
pub struct StreamProtocol(pub Arc<Core>);

impl ProtocolHandler for StreamProtocol {
    async fn accept(&self, quic: Connection) -> Result<(), AcceptError> {
        let core = &self.0;
        let conn = Conn::new(core, quic, false);
        if !core.strangers.admit(&conn) {
            core.peers.refused.fetch_add(1, Ordering::Relaxed);
            conn.quic.close(CODE_BUSY, b"busy");
            return Ok(());
        }
        core.cancel.run_until_cancelled(accept_streams(core, &conn)).await;
        Ok(())
    }
}

async fn accept_streams(core: &Arc<Core>, conn: &Arc<Conn>) {
    loop {
        let Ok(permit) = conn.permits.clone().acquire_owned().await else { return };
        match conn.quic.accept_bi().await {
            Ok((send, recv)) => streams::accepted(core, conn, permit, send, recv),
            Err(_) => return,
        }
    }
}

/// A dialled connection and when it was last asked for.
type Dialled = Option<(Arc<Conn>, Instant)>;

/// The inner lock makes concurrent dials of one peer one.
type Slot = Arc<AsyncMutex<Dialled>>;

/// Connections that we dialled, one a peer.
#[derive(Debug, Default)]
pub struct Dials {
    slots: Mutex<HashMap<EndpointId, Slot>>,
}

impl Dials {
    async fn get(&self, core: &Arc<Core>, peer: EndpointId) -> Result<Arc<Conn>, Failure> {
        if !core.peers.is_allowed(&peer) {
            return Err(Failure::new("not_allowed", "our own allowlist does not name this node"));
        }
        let slot = lock(&self.slots).entry(peer).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some((conn, used)) = slot.as_mut().filter(|(conn, _)| conn.quic.close_reason().is_none()) {
            *used = Instant::now();
            return Ok(conn.clone());
        }
        let endpoint = core.endpoint().await?;
        let quic = endpoint.connect(peer, &core.settings.alpn).await?;
        let conn = Conn::new(core, quic, true);
        *slot = Some((conn.clone(), Instant::now()));
        Ok(conn)
    }

    /// Forgets connections that have ended, and closes those that nobody uses any more.
    pub fn prune(&self) {
        lock(&self.slots).retain(|_, slot| match slot.try_lock() {
            Ok(slot) => slot.as_ref().is_some_and(|(conn, used)| {
                let idle = conn.open.load(Ordering::Relaxed) == 0 && used.elapsed() > IDLE_DIAL;
                if idle {
                    conn.quic.close(VarInt::from_u32(0), b"idle");
                }
                !idle && conn.quic.close_reason().is_none()
            }),
            Err(_) => true,
        });
    }
}

/// Opens a stream within `timeout`; reports it before the stream can have any other event.
pub async fn open(core: &Arc<Core>, peer: EndpointId, timeout: Duration) -> Result<Opened, Failure> {
    let attempt = async {
        let conn = core.dials.get(core, peer).await?;
        match conn.quic.open_bi().await {
            Ok((send, recv)) => Ok(streams::opened(core, &conn, send, recv)),
            Err(_) => {
                // The cached connection died unseen: one fresh dial tells what is the matter.
                let conn = core.dials.get(core, peer).await?;
                let (send, recv) = conn.quic.open_bi().await?;
                Ok(streams::opened(core, &conn, send, recv))
            }
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::timeout("the dial")),
    }
}
