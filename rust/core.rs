//! The inside of a node: what its tasks share, and its life from bind to close.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    Endpoint, EndpointId, RelayMode, SecretKey,
    endpoint::{NetReportConfig, PortmapperConfig, QuicTransportConfig, VarInt, presets},
    protocol::Router,
};
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use tokio::{
    runtime::Handle,
    sync::SetOnce,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    book::Book,
    config::Settings,
    conn::{Dials, STREAMS_UNTRUSTED, Strangers, StreamProtocol, WINDOW_UNTRUSTED},
    discovery,
    error::{Error, Failure},
    events::{Event, OpResult, Queue},
    gossip::{self, Topic},
    peers::{Hook, Peers},
    runtime::lock,
    streams::Streams,
};

/// NATIVE §0.2, protocol constants: a dead peer is noticed after 10 to 12 s, an 8 s cut survives.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(10);
const STREAM_WINDOW: VarInt = VarInt::from_u32(256 << 10);
/// Gossip uses one or two unidirectional streams a connection; nothing else uses any.
const UNI_STREAMS: VarInt = VarInt::from_u32(16);
/// Unsent data of one connection inside QUIC; what exceeds it waits in our own queues.
const SEND_WINDOW: u64 = 4 << 20;
/// Of the time that `close` has, at most this share goes to data that is still on its way.
const FLUSH_SHARE: u32 = 2;
/// Live peers acknowledge a close within milliseconds; the rest of iroh's 3 s would wait for dead ones.
const GOODBYE: Duration = Duration::from_millis(700);
const FLUSH_POLL: Duration = Duration::from_millis(5);

/// What bind brought.
#[derive(Debug, Clone)]
struct Bound {
    endpoint: Endpoint,
    gossip: Gossip,
    addresses: Vec<SocketAddr>,
}

/// Our rendezvous entry.
#[derive(Debug, Default)]
struct Publication {
    path: Option<PathBuf>,
    /// The node closes: whoever was about to write the entry must not.
    withdrawn: bool,
}

#[derive(Debug)]
pub struct Core {
    pub id: EndpointId,
    pub settings: Settings,
    pub queue: Queue,
    pub book: Book,
    pub peers: Arc<Peers>,
    pub topic: Topic,
    pub streams: Streams,
    pub strangers: Arc<Strangers>,
    pub dials: Dials,
    /// Ends all tasks of the node.
    pub cancel: CancellationToken,
    runtime: Handle,
    operations: TaskTracker,
    next_op: AtomicU64,
    bound: SetOnce<Result<Bound, Failure>>,
    router: Mutex<Option<Router>>,
    publication: Mutex<Publication>,
    closing: Mutex<Option<u64>>,
    closed: SetOnce<()>,
}

impl Core {
    pub fn new(runtime: Handle, id: EndpointId, settings: Settings) -> Result<Arc<Self>, Error> {
        let queue = Queue::new(settings.queue_items, settings.queue_bytes)
            .map_err(|error| Error::Internal(format!("no descriptor for events: {error}")))?;
        Ok(Arc::new(Core {
            id,
            queue,
            book: Book::new(id),
            peers: Arc::default(),
            topic: Topic::new(settings.gossip_per_s),
            streams: Streams::default(),
            strangers: Arc::default(),
            dials: Dials::default(),
            cancel: CancellationToken::new(),
            runtime,
            operations: TaskTracker::new(),
            next_op: AtomicU64::new(0),
            bound: SetOnce::new(),
            router: Mutex::default(),
            publication: Mutex::default(),
            closing: Mutex::default(),
            closed: SetOnce::new(),
            settings,
        }))
    }

    /// Raises once `close` was called.
    pub fn check_open(&self) -> Result<(), Error> {
        if lock(&self.closing).is_some() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Runs a task until it ends or the node does.
    pub fn spawn<F>(self: &Arc<Self>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cancel = self.cancel.clone();
        self.runtime.spawn(async move { cancel.run_until_cancelled_owned(task).await });
    }

    /// Starts an operation; its outcome comes as an event. `Ok(None)`: the operation reported itself.
    pub fn operation<F>(self: &Arc<Self>, work: impl FnOnce(u64) -> F) -> u64
    where
        F: Future<Output = Result<Option<OpResult>, Failure>> + Send + 'static,
    {
        let op = self.next_op.fetch_add(1, Ordering::Relaxed);
        let (core, work) = (self.clone(), work(op));
        self.runtime.spawn(self.operations.track_future(async move {
            // A task of its own, so that even a panic ends as an event.
            let mut work = core.runtime.spawn(work);
            let ended = match core.cancel.run_until_cancelled(&mut work).await {
                Some(ended) => ended,
                None => {
                    work.abort();
                    // Awaited all the same: it may have ended, and even reported itself, just now.
                    work.await
                }
            };
            let outcome = match ended {
                Ok(outcome) => outcome,
                Err(error) if error.is_cancelled() => Err(Failure::closed()),
                Err(error) => Err(Failure::new("lost", format!("internal error: {error}"))),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(result)) => core.queue.push(Event::Op(op, Ok(result))),
                Err(failure) => core.queue.push(Event::Op(op, Err(failure))),
            }
        }));
        op
    }

    // --- life ---

    /// Operation 0.
    pub fn start(self: &Arc<Self>, key: SecretKey) {
        let core = self.clone();
        self.operation(|_| async move {
            // A second task: bind is short, and an endpoint must not be dropped half-way by `close`.
            let inner = core.clone();
            let binding = core.runtime.spawn(async move {
                let outcome = bind(&inner, key).await;
                if inner.cancel.is_cancelled() {
                    // A `close` that had no time to wait for us.
                    inner.say_goodbye().await;
                }
                outcome
            });
            let outcome = binding.await.unwrap_or_else(|error| Err(Failure::new("bind", error.to_string())));
            let result = outcome.as_ref().map(|bound| OpResult::Addresses(bound.addresses.clone()));
            let result = result.map(Some).map_err(Failure::clone);
            // Set only here, so the cell is empty. The last thing: who waits for it may cancel us.
            let _ = core.bound.set(outcome);
            result
        });
    }

    /// Waits for the end of bind.
    pub async fn endpoint(&self) -> Result<Endpoint, Failure> {
        self.bound.wait().await.as_ref().map(|bound| bound.endpoint.clone()).map_err(Failure::clone)
    }

    pub fn gossip(&self) -> Result<Gossip, Failure> {
        match self.bound.get() {
            Some(Ok(bound)) => Ok(bound.gossip.clone()),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::closed()),
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self.bound.get() {
            Some(Ok(bound)) => bound.addresses.clone(),
            _ => Vec::new(),
        }
    }

    /// Writes our rendezvous entry, unless it has been withdrawn.
    pub fn publish(&self, path: &Path, write: impl FnOnce()) {
        let mut publication = lock(&self.publication);
        if !publication.withdrawn {
            publication.path = Some(path.to_owned());
            write();
        }
    }

    fn withdraw(&self) {
        let mut publication = lock(&self.publication);
        publication.withdrawn = true;
        if let Some(path) = publication.path.take() {
            discovery::withdraw(self, &path);
        }
    }

    /// Ends the endpoint and all that runs on it; once, whoever comes first.
    async fn say_goodbye(&self) {
        let router = lock(&self.router).take();
        if let Some(router) = router {
            // Fails only when the router's task panicked; then there is nobody to say goodbye to.
            let _ = router.shutdown().await;
        }
    }

    /// Closes once; later calls get the operation of the first.
    pub fn close(self: &Arc<Self>, timeout: Duration) -> u64 {
        self.close_because(timeout, "closed")
    }

    /// Something that cannot be mended has ended inside.
    pub fn fail(self: &Arc<Self>, reason: &'static str) {
        self.close_because(Duration::from_secs(1), reason);
    }

    fn close_because(self: &Arc<Self>, timeout: Duration, reason: &'static str) -> u64 {
        let mut closing = lock(&self.closing);
        if let Some(op) = *closing {
            return op;
        }
        let op = self.next_op.fetch_add(1, Ordering::Relaxed);
        *closing = Some(op);
        drop(closing);
        let core = self.clone();
        self.runtime.spawn(async move {
            // The last tenth is for what the waits below overrun.
            shut_down(&core, Instant::now() + timeout * 9 / 10, timeout / FLUSH_SHARE).await;
            core.queue.push(Event::Op(op, Ok(OpResult::Nothing)));
            core.queue.push(Event::Closed(reason.to_owned()));
            let _ = core.closed.set(());
        });
        op
    }

    pub async fn wait_closed(&self) {
        self.closed.wait().await;
    }
}

fn transport() -> Result<QuicTransportConfig, Failure> {
    let idle = IDLE.try_into().map_err(|_| Failure::new("bind", "idle timeout out of range"))?;
    Ok(QuicTransportConfig::builder()
        .keep_alive_interval(KEEP_ALIVE)
        .default_path_keep_alive_interval(KEEP_ALIVE)
        .max_idle_timeout(Some(idle))
        .default_path_max_idle_timeout(IDLE)
        // Every connection starts as a stranger's: credit once given cannot be taken back.
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_UNTRUSTED as u32))
        .max_concurrent_uni_streams(UNI_STREAMS)
        .stream_receive_window(STREAM_WINDOW)
        .receive_window(WINDOW_UNTRUSTED)
        .send_window(SEND_WINDOW)
        .build())
}

async fn bind(core: &Arc<Core>, key: SecretKey) -> Result<Bound, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new("bind", error.to_string());
    let endpoint = Endpoint::builder(presets::Minimal)
        .secret_key(key)
        .relay_mode(RelayMode::Disabled)
        .address_lookup(core.book.lookup())
        .portmapper_config(PortmapperConfig::Disabled)
        .net_report_config(NetReportConfig::minimal())
        .transport_config(transport()?)
        .hooks(Hook(core.peers.clone()))
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .map_err(|error| failed(&error))?
        .bind()
        .await
        .map_err(|error| failed(&error))?;
    let gossip = Gossip::builder()
        .max_message_size(gossip::MAX_MESSAGE_SIZE)
        .membership_config(gossip::membership())
        .spawn(endpoint.clone());
    let router = Router::builder(endpoint.clone())
        .accept(GOSSIP_ALPN, gossip.clone())
        .accept(&core.settings.alpn, StreamProtocol(core.clone()))
        .spawn();
    *lock(&core.router) = Some(router);
    let addresses = endpoint.bound_sockets();
    Ok(Bound { endpoint, gossip, addresses })
}

/// Says goodbye as far as the time allows, then ends everything.
async fn shut_down(core: &Arc<Core>, deadline: Instant, flush: Duration) {
    let _ = timeout_at(deadline, core.bound.wait()).await;
    let flushed = deadline.min(Instant::now() + flush);
    while core.streams.finishing() > 0 && Instant::now() < flushed {
        sleep(FLUSH_POLL).await;
    }
    if let Some(until) = core.topic.lingers_until() {
        sleep_until(flushed.min(until.into())).await;
    }
    core.peers.close_streams(b"node closed");
    core.cancel.cancel();
    core.withdraw();
    core.operations.close();
    // A bind that is stuck holds its operation; the others end with the cancellation.
    let _ = timeout_at(deadline, core.operations.wait()).await;
    // A task of its own: what outlasts the wait still ends in order, only later.
    let shared = core.clone();
    let goodbye = core.runtime.spawn(async move { shared.say_goodbye().await });
    let _ = timeout_at(deadline.min(Instant::now() + GOODBYE), goodbye).await;
}
