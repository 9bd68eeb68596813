//! The one queue from Rust to Python: bounded for gossip, lossless for everything else.
//!
//! Law of the wake-up: `drain` clears the descriptor FIRST, then the armed flag, then takes; who
//! pushes decides under the same lock whether to notify. In any other order a notification can be
//! swallowed between the two, and the reader sleeps on a full queue (seen in a trial).

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::RawFd,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use iroh::EndpointId;
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyBytes, PyTuple},
};

use crate::{error::Failure, runtime::lock, stream::Stream, wake::Wake};

pub const OP_OK: u32 = 0;
pub const OP_FAILED: u32 = 1;
pub const GOSSIP: u32 = 2;
pub const LAG: u32 = 3;
pub const NEIGHBOR_UP: u32 = 4;
pub const NEIGHBOR_DOWN: u32 = 5;
pub const STREAM_ACCEPTED: u32 = 6;
pub const STREAM_DATA: u32 = 7;
pub const STREAM_FINISHED: u32 = 8;
pub const STREAM_RESET: u32 = 9;
pub const STREAM_STOPPED: u32 = 10;
pub const STREAM_LOST: u32 = 11;
pub const STREAM_WRITABLE: u32 = 12;
pub const PEER_FOUND: u32 = 13;
pub const PEER_GONE: u32 = 14;
pub const CLOSED: u32 = 15;

/// What an operation brought.
#[derive(Debug)]
pub enum OpResult {
    Nothing,
    Stream(u64),
    Addresses(Vec<SocketAddr>),
}

#[derive(Debug)]
pub enum Event {
    Op(u64, Result<OpResult, Failure>),
    Gossip(EndpointId, Bytes),
    Lag(u64),
    NeighborUp(EndpointId),
    NeighborDown(EndpointId),
    Accepted(Arc<Stream>),
    Data(Arc<Stream>, Bytes),
    Finished(Arc<Stream>),
    Reset(Arc<Stream>, u64),
    Stopped(Arc<Stream>, u64),
    Lost(Arc<Stream>, String),
    Writable(Arc<Stream>),
    PeerFound(EndpointId, Vec<SocketAddr>),
    PeerGone(EndpointId),
    Closed(String),
}

impl Event {
    fn payload_len(&self) -> usize {
        match self {
            Event::Gossip(_, content) => content.len(),
            Event::Data(_, data) => data.len(),
            _ => 0,
        }
    }

    /// False for what the application said it no longer wants: data after `stop`.
    fn is_wanted(&self) -> bool {
        match self {
            Event::Data(stream, _) | Event::Finished(stream) | Event::Reset(stream, _) => !stream.is_muted(),
            _ => true,
        }
    }

    pub fn to_tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let id = |id: &EndpointId| PyBytes::new(py, id.as_bytes());
        match self {
            Event::Op(op, Ok(result)) => {
                let result = match result {
                    OpResult::Nothing => py.None().into_bound(py),
                    OpResult::Stream(stream) => stream.into_bound_py_any(py)?,
                    OpResult::Addresses(addresses) => to_strings(addresses).into_bound_py_any(py)?,
                };
                (OP_OK, op, result).into_pyobject(py)
            }
            Event::Op(op, Err(failure)) => (OP_FAILED, op, failure.code, &failure.message).into_pyobject(py),
            Event::Gossip(from, content) => (GOSSIP, id(from), PyBytes::new(py, content)).into_pyobject(py),
            Event::Lag(count) => (LAG, count).into_pyobject(py),
            Event::NeighborUp(node) => (NEIGHBOR_UP, id(node)).into_pyobject(py),
            Event::NeighborDown(node) => (NEIGHBOR_DOWN, id(node)).into_pyobject(py),
            Event::Accepted(stream) => (STREAM_ACCEPTED, stream.id, id(&stream.conn.peer)).into_pyobject(py),
            Event::Data(stream, data) => (STREAM_DATA, stream.id, PyBytes::new(py, data)).into_pyobject(py),
            Event::Finished(stream) => (STREAM_FINISHED, stream.id).into_pyobject(py),
            Event::Reset(stream, code) => (STREAM_RESET, stream.id, code).into_pyobject(py),
            Event::Stopped(stream, code) => (STREAM_STOPPED, stream.id, code).into_pyobject(py),
            Event::Lost(stream, reason) => (STREAM_LOST, stream.id, reason).into_pyobject(py),
            Event::Writable(stream) => (STREAM_WRITABLE, stream.id).into_pyobject(py),
            Event::PeerFound(node, addresses) => {
                (PEER_FOUND, id(node), to_strings(addresses)).into_pyobject(py)
            }
            Event::PeerGone(node) => (PEER_GONE, id(node)).into_pyobject(py),
            Event::Closed(reason) => (CLOSED, reason).into_pyobject(py),
        }
    }
}

pub fn to_strings(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(SocketAddr::to_string).collect()
}

/// Gossip lives in a queue of its own, so that dropping the oldest of it costs nothing; the serial
/// numbers merge the two again in the order of arrival.
#[derive(Debug, Default)]
struct State {
    gossip: VecDeque<(u64, Event)>,
    other: VecDeque<(u64, Event)>,
    serial: u64,
    bytes: usize,
    /// Gossip dropped since the last EVENT_LAG.
    lag: u64,
    lag_total: u64,
    /// The descriptor was notified and not cleared since.
    armed: bool,
    ended: bool,
    drained: bool,
}

impl State {
    fn len(&self) -> usize {
        self.gossip.len() + self.other.len()
    }

    fn pop(&mut self) -> Option<Event> {
        let gossip = self.gossip.front().map_or(u64::MAX, |(serial, _)| *serial);
        let other = self.other.front().map_or(u64::MAX, |(serial, _)| *serial);
        let closing = matches!(self.other.front(), Some((_, Event::Closed(_))));
        if self.lag > 0 && (gossip <= other || closing) {
            // What was dropped was older than all gossip that is left; nothing follows EVENT_CLOSED.
            return Some(Event::Lag(std::mem::take(&mut self.lag)));
        }
        let source = if gossip < other { &mut self.gossip } else { &mut self.other };
        let (_, event) = source.pop_front()?;
        self.bytes -= event.payload_len();
        Some(event)
    }
}

#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    wake: Wake,
    max_items: usize,
    max_bytes: usize,
}

impl Queue {
    pub fn new(max_items: usize, max_bytes: usize) -> io::Result<Self> {
        Ok(Queue { state: Mutex::default(), wake: Wake::new()?, max_items, max_bytes })
    }

    /// Queues an event; after EVENT_CLOSED nothing follows.
    pub fn push(&self, event: Event) {
        let mut state = lock(&self.state);
        if state.ended {
            return;
        }
        state.ended = matches!(event, Event::Closed(_));
        state.serial += 1;
        state.bytes += event.payload_len();
        let entry = (state.serial, event);
        match entry.1 {
            Event::Gossip(..) => state.gossip.push_back(entry),
            _ => state.other.push_back(entry),
        }
        while state.len() > self.max_items || state.bytes > self.max_bytes {
            let Some((_, dropped)) = state.gossip.pop_front() else { break };
            state.bytes -= dropped.payload_len();
            state.lag += 1;
            state.lag_total += 1;
        }
        self.notify(state);
    }

    /// Counts gossip that was lost before it came here.
    pub fn add_lag(&self, count: u64) {
        let mut state = lock(&self.state);
        if state.ended {
            return;
        }
        state.lag += count;
        state.lag_total += count;
        self.notify(state);
    }

    fn notify(&self, mut state: std::sync::MutexGuard<'_, State>) {
        if !state.armed {
            state.armed = true;
            self.wake.notify();
        }
    }

    pub fn drain(&self, max_events: usize) -> Vec<Event> {
        self.wake.clear();
        let mut state = lock(&self.state);
        state.armed = false;
        let mut events = Vec::with_capacity(state.len().min(max_events));
        while events.len() < max_events {
            let Some(event) = state.pop() else { break };
            if event.is_wanted() {
                state.drained |= matches!(event, Event::Closed(_));
                events.push(event);
            }
        }
        if state.len() > 0 || state.lag > 0 {
            self.notify(state);
        }
        events
    }

    /// The descriptor stays open as long as the node object, so that its number cannot come to mean
    /// something else while an event loop still knows it.
    pub fn fd(&self) -> RawFd {
        if lock(&self.state).drained { -1 } else { self.wake.fd() }
    }

    /// (items, bytes, all gossip ever dropped)
    pub fn stats(&self) -> (usize, usize, u64) {
        let state = lock(&self.state);
        (state.len(), state.bytes, state.lag_total)
    }
}
