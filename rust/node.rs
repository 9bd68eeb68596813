//! The Python class. Every call checks for a fork, does its work without waiting, and returns.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use iroh::SecretKey;
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyTuple},
};

use crate::{
    config::{self, Data, NamedPeer, Settings, Text},
    conn,
    core::Core,
    discovery,
    error::Error,
    events::{Event, OpResult, to_strings},
    gossip, maintainer, runtime,
};

/// One iroh endpoint with its gossip topic and streams. Frozen; usable from one thread at a time.
#[pyclass(frozen, module = "llama_gossip._native")]
pub struct Node {
    /// Taken only by `drop`.
    core: Option<Arc<Core>>,
}

impl Node {
    /// The inside, for a process that may use it.
    fn core(&self) -> Result<&Arc<Core>, Error> {
        runtime::check_fork()?;
        self.core.as_ref().ok_or(Error::Closed)
    }

    /// The inside of a node that is not closing.
    fn open_core(&self) -> Result<&Arc<Core>, Error> {
        let core = self.core()?;
        core.check_open()?;
        Ok(core)
    }
}

#[pymethods]
impl Node {
    /// Starts to bind at once; operation id 0 reports it.
    #[new]
    #[pyo3(signature = (*, secret_key, reach="host", alpn=b"/llama-gossip/1".to_vec(), rendezvous_dir=None,
        address_book=Vec::new(), allowlist=None, queue_items=8192, queue_bytes=16777216, gossip_per_s=50,
        stream_credit=262144, connection_credit=4194304),
        text_signature = "(*, secret_key, reach='host', alpn=b'/llama-gossip/1', rendezvous_dir=None, \
        address_book=..., allowlist=None, queue_items=8192, queue_bytes=16777216, gossip_per_s=50, \
        stream_credit=262144, connection_credit=4194304)")]
    #[allow(clippy::too_many_arguments)] // keyword-only for the caller
    fn new(
        secret_key: Data,
        reach: &str,
        alpn: Vec<u8>,
        rendezvous_dir: Option<std::path::PathBuf>,
        address_book: Vec<NamedPeer>,
        allowlist: Option<Vec<Data>>,
        queue_items: usize,
        queue_bytes: usize,
        gossip_per_s: u32,
        stream_credit: usize,
        connection_credit: usize,
    ) -> PyResult<Self> {
        runtime::check_fork()?;
        config::check_reach(reach)?;
        let settings = Settings {
            alpn,
            rendezvous_dir,
            queue_items,
            queue_bytes,
            gossip_per_s,
            stream_credit,
            connection_credit,
        };
        settings.check()?;
        let key = SecretKey::from_bytes(&secret_key.array("secret_key")?);
        let address_book = config::peers("address_book", &address_book)?;
        let allowlist = allowlist.map(|ids| config::node_ids("allowlist", &ids)).transpose()?;
        if let Some(folder) = &settings.rendezvous_dir {
            discovery::prepare(folder)?;
        }
        let core = Core::new(runtime::handle()?, key.public(), settings)?;
        for (node, addresses) in &address_book {
            core.book.add(*node, addresses);
        }
        core.peers.set_allowlist(allowlist);
        runtime::register(&core);
        core.start(key);
        Ok(Node { core: Some(core) })
    }

    #[getter]
    fn node_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let id = self.core.as_ref().map_or(&[][..], |core| core.id.as_bytes());
        PyBytes::new(py, id)
    }

    /// Bound "ip:port" addresses; empty until bound.
    #[getter]
    fn addresses(&self) -> PyResult<Vec<String>> {
        Ok(to_strings(&self.core()?.addresses()))
    }

    /// Readable while events wait. -1 after the node has closed.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.core()?.queue.fd())
    }

    /// Takes up to max_events waiting events, oldest first. Never blocks. [] after EVENT_CLOSED.
    #[pyo3(signature = (max_events=256))]
    fn drain<'py>(&self, py: Python<'py>, max_events: usize) -> PyResult<Bound<'py, PyList>> {
        let core = self.core()?;
        let events = core.queue.drain(max_events);
        let tuples: Vec<Bound<'py, PyTuple>> =
            events.iter().map(|event| event.to_tuple(py)).collect::<PyResult<_>>()?;
        for event in &events {
            match event {
                Event::Data(stream, _) => stream.delivered(),
                Event::Finished(stream) | Event::Reset(stream, _) | Event::Lost(stream, _) => {
                    core.streams.settle(stream);
                }
                _ => {}
            }
        }
        PyList::new(py, tuples)
    }

    // --- gossip ---

    /// Subscribes to a 32-byte topic, after a reset-dial of every known peer.
    fn join(&self, topic: Data, bootstrap: Vec<NamedPeer>) -> PyResult<u64> {
        let core = self.open_core()?;
        let bootstrap = config::peers("bootstrap", &bootstrap)?;
        let topic = core.topic.claim(topic.array("topic")?)?;
        let mut nodes = Vec::with_capacity(bootstrap.len());
        for (node, addresses) in &bootstrap {
            core.book.add(*node, addresses);
            nodes.push(*node);
        }
        let shared = core.clone();
        Ok(core.operation(|_| async move { gossip::join(shared, topic, nodes).await.map(Some) }))
    }

    /// Sends to the topic. urgent goes before what waits and has a reserve of the rate budget.
    #[pyo3(signature = (data, urgent=false))]
    fn broadcast(&self, data: Data, urgent: bool) -> PyResult<()> {
        Ok(self.open_core()?.topic.broadcast(data.0, urgent)?)
    }

    fn neighbors<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let neighbors = self.core()?.topic.neighbors();
        Ok(neighbors.iter().map(|node| PyBytes::new(py, node.as_bytes())).collect())
    }

    /// Adds to the address book (addresses outside the reach are ignored).
    fn add_addresses(&self, node_id: Data, addresses: Vec<Text>) -> PyResult<()> {
        let node = node_id.node_id("node_id")?;
        self.core()?.book.add(node, &config::reachable_all(&addresses));
        Ok(())
    }

    /// Removes a node from the address book: the maintainer stops dialling it.
    fn forget(&self, node_id: Data) -> PyResult<()> {
        let node = node_id.node_id("node_id")?;
        self.core()?.book.remove(&node);
        Ok(())
    }

    /// Closes our own gossip connections and rejoins: the cure for a mute outbound side.
    fn rebuild_gossip(&self) -> PyResult<()> {
        let core = self.open_core()?;
        core.spawn(maintainer::rebuild(core.clone()));
        Ok(())
    }

    /// Replaces it; connections of nodes that are no longer on it are closed.
    fn set_allowlist(&self, allowlist: Option<Vec<Data>>) -> PyResult<()> {
        let allowlist = allowlist.map(|ids| config::node_ids("allowlist", &ids)).transpose()?;
        self.core()?.peers.set_allowlist(allowlist);
        Ok(())
    }

    // --- streams ---

    /// Opens a bi-stream, over the cached connection or a new one. OP_OK carries the stream id.
    #[pyo3(signature = (node_id, timeout_ms=4000))]
    fn open(&self, node_id: Data, timeout_ms: u64) -> PyResult<u64> {
        let node = node_id.node_id("node_id")?;
        let core = self.open_core()?;
        let shared = core.clone();
        Ok(core.operation(|op| async move {
            let opened = conn::open(&shared, node, Duration::from_millis(timeout_ms)).await?;
            // Reported here, before the tasks start: no event of the stream may precede its id.
            shared.queue.push(Event::Op(op, Ok(OpResult::Stream(opened.stream.id))));
            opened.start(&shared);
            Ok(None)
        }))
    }

    /// Queues data. False: accepted, but wait for EVENT_STREAM_WRITABLE before more.
    fn write(&self, stream: u64, data: Data) -> PyResult<bool> {
        Ok(self.open_core()?.streams.write(stream, data.0)?)
    }

    /// Ends our side after what is queued. Unknown streams are ignored here and below.
    fn finish(&self, stream: u64) -> PyResult<()> {
        self.core()?.streams.finish(stream);
        Ok(())
    }

    /// Abandons our side: what is queued is dropped, the peer sees EVENT_STREAM_RESET.
    fn reset(&self, stream: u64, code: u64) -> PyResult<()> {
        self.core()?.streams.reset(stream, code);
        Ok(())
    }

    /// Reads no more: the peer sees EVENT_STREAM_STOPPED. No further data events.
    fn stop(&self, stream: u64, code: u64) -> PyResult<()> {
        self.core()?.streams.stop(stream, code);
        Ok(())
    }

    /// Returns `count` bytes of credit.
    fn consumed(&self, stream: u64, count: u64) -> PyResult<()> {
        self.core()?.streams.consumed(stream, count);
        Ok(())
    }

    /// The connection of this stream has carried its first valid Assign.
    fn trust(&self, stream: u64) -> PyResult<()> {
        self.core()?.streams.trust(stream);
        Ok(())
    }

    // --- the rest ---

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.core()?;
        let counters = &core.topic.counters;
        let (queue_items, queue_bytes, lag) = core.queue.stats();
        let stats = PyDict::new(py);
        for (name, value) in [
            ("gossip_sent", counters.sent.load(Ordering::Relaxed)),
            ("gossip_received", counters.received.load(Ordering::Relaxed)),
            ("gossip_bytes_sent", counters.bytes_sent.load(Ordering::Relaxed)),
            ("gossip_bytes_received", counters.bytes_received.load(Ordering::Relaxed)),
            ("lag", lag),
            ("rate_limited", counters.rate_limited.load(Ordering::Relaxed)),
            ("neighbors", core.topic.neighbors().len() as u64),
            ("connections", core.peers.count() as u64),
            ("connections_refused", core.peers.refused.load(Ordering::Relaxed)),
            ("streams_open", core.streams.len() as u64),
            ("stream_bytes_sent", core.streams.bytes_sent.load(Ordering::Relaxed)),
            ("stream_bytes_received", core.streams.bytes_received.load(Ordering::Relaxed)),
            ("rejoins", counters.rejoins.load(Ordering::Relaxed)),
            ("redials", counters.redials.load(Ordering::Relaxed)),
            ("queue_items", queue_items as u64),
            ("queue_bytes", queue_bytes as u64),
        ] {
            stats.set_item(name, value)?;
        }
        Ok(stats)
    }

    /// (path "direct" | "relayed", round-trip time in ms) of a live connection, or None.
    fn remote_info(&self, node_id: Data) -> PyResult<Option<(&'static str, f64)>> {
        let node = node_id.node_id("node_id")?;
        let Some(connection) = self.core()?.peers.connection(&node) else { return Ok(None) };
        let paths = connection.paths();
        let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
        Ok(path.map(|path| {
            let kind = if path.is_relay() { "relayed" } else { "direct" };
            (kind, path.rtt().as_secs_f64() * 1000.0)
        }))
    }

    /// Leaves gracefully; the operation ends, then EVENT_CLOSED, within timeout_ms. Idempotent.
    #[pyo3(signature = (timeout_ms=2000))]
    fn close(&self, timeout_ms: u64) -> PyResult<u64> {
        Ok(self.core()?.close(Duration::from_millis(timeout_ms)))
    }

    fn __repr__(&self) -> String {
        let id = self.core.as_ref().map(|core| core.id.fmt_short().to_string()).unwrap_or_default();
        format!("<llama_gossip._native.Node {id}>")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(core) = self.core.take() else { return };
        if runtime::is_forked() {
            // The threads that could take it apart are in the parent.
            std::mem::forget(core);
        } else {
            core.close(Duration::from_secs(1));
        }
    }
}
