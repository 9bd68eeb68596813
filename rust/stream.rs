//! Bi-streams as Python sees them: verbs that never block, and the state the two tasks share.
//!
//! Each stream has a writer and a reader task (`stream_io.rs`). A stream leaves the table when both
//! of its sides have ended; its credit is settled when the application has taken its last event.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use iroh::endpoint::{RecvStream, SendStream};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::{
    conn::Conn,
    core::Core,
    error::Error,
    events::Event,
    runtime::lock,
    stream_io::{self, Sender},
};

/// The largest single write: a first frame of 1 MiB + 4 KiB with room to spare.
pub const MAX_WRITE_BYTES: usize = (1 << 20) + (64 << 10);
/// Above this `write` answers False; below half of it EVENT_STREAM_WRITABLE follows.
const HIGH_WATER: usize = 256 << 10;
/// Who writes on in spite of False is refused here, so that memory stays bounded.
const MAX_BUFFERED: usize = 4 * MAX_WRITE_BYTES;

#[derive(Debug, Default)]
struct State {
    out: VecDeque<Bytes>,
    out_bytes: usize,
    finish: bool,
    reset: Option<u64>,
    wants_writable: bool,
    out_ended: bool,
    stop: Option<u64>,
    in_ended: bool,
    lost: bool,
    /// Handed to the application and not yet given back.
    unread: u64,
    /// The application wants no more data, or has taken the last event: credit is settled.
    muted: bool,
}

#[derive(Debug)]
pub struct Stream {
    pub id: u64,
    pub conn: Arc<Conn>,
    credit: u64,
    state: Mutex<State>,
    /// Something to write, or `finish`.
    pub out_wake: Notify,
    /// `reset`: it interrupts a write in progress, which `out_wake` must not.
    pub reset_wake: Notify,
    /// Credit, or `stop`.
    pub in_wake: Notify,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What the writer does next.
#[derive(Debug)]
pub enum Step {
    Write(Bytes),
    Finish,
    Reset(u64),
    Wait,
}

impl Stream {
    fn new(core: &Core, conn: &Arc<Conn>, permit: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        conn.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Stream {
            id: core.streams.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            conn: conn.clone(),
            credit: core.settings.stream_credit as u64,
            state: Mutex::default(),
            out_wake: Notify::new(),
            reset_wake: Notify::new(),
            in_wake: Notify::new(),
            _permit: permit,
        })
    }

    // --- the application's side ---

    fn write(&self, data: Bytes) -> Result<bool, Error> {
        let mut state = lock(&self.state);
        if state.out_ended || state.finish || state.reset.is_some() {
            return Err(Error::UnknownStream(self.id));
        }
        let size = state.out_bytes + data.len();
        if data.len() > MAX_WRITE_BYTES || size > MAX_BUFFERED {
            let limit = if data.len() > MAX_WRITE_BYTES { MAX_WRITE_BYTES } else { MAX_BUFFERED };
            return Err(Error::Oversize { size, limit });
        }
        state.out_bytes = size;
        if !data.is_empty() {
            state.out.push_back(data);
        }
        let room = size <= HIGH_WATER;
        state.wants_writable |= !room;
        drop(state);
        self.out_wake.notify_one();
        Ok(room)
    }

    fn finish(&self) {
        lock(&self.state).finish = true;
        self.out_wake.notify_one();
    }

    fn reset(&self, code: u64) {
        let mut state = lock(&self.state);
        if state.out_ended {
            return;
        }
        state.reset.get_or_insert(code);
        state.out.clear();
        state.out_bytes = 0;
        state.wants_writable = false;
        drop(state);
        self.reset_wake.notify_one();
    }

    fn stop(&self, code: u64) {
        lock(&self.state).stop.get_or_insert(code);
        self.settle();
        self.in_wake.notify_one();
    }

    fn consumed(&self, count: u64) {
        let mut state = lock(&self.state);
        if state.muted {
            return;
        }
        let count = count.min(state.unread);
        state.unread -= count;
        drop(state);
        self.conn.release(count);
        self.in_wake.notify_one();
    }

    /// Gives back all credit for good: after `stop`, and when the last event has been taken.
    pub fn settle(&self) {
        let mut state = lock(&self.state);
        state.muted = true;
        let unread = std::mem::take(&mut state.unread);
        drop(state);
        self.conn.release(unread);
    }

    pub fn is_muted(&self) -> bool {
        lock(&self.state).muted
    }

    // --- the tasks' side ---

    pub fn next_step(&self) -> Step {
        let mut state = lock(&self.state);
        if let Some(code) = state.reset {
            return Step::Reset(code);
        }
        match state.out.pop_front() {
            Some(data) => Step::Write(data),
            None if state.finish => Step::Finish,
            None => Step::Wait,
        }
    }

    /// True when the application waits to hear that it may write again.
    pub fn wrote(&self, count: usize) -> bool {
        let mut state = lock(&self.state);
        state.out_bytes = state.out_bytes.saturating_sub(count);
        let writable = state.wants_writable && state.out_bytes <= HIGH_WATER / 2;
        if writable {
            state.wants_writable = false;
        }
        writable
    }

    pub fn stop_code(&self) -> Option<u64> {
        lock(&self.state).stop
    }

    /// How much may be read now: 0 = wait for credit.
    pub fn room(&self) -> usize {
        let unread = lock(&self.state).unread;
        if !self.conn.has_room() {
            return 0;
        }
        let chunk = if self.conn.is_trusted() { 64 << 10 } else { 16 << 10 };
        self.credit.saturating_sub(unread).min(chunk) as usize
    }

    /// Counts data handed to the application; false if it wants no more.
    pub fn charge(&self, count: u64) -> bool {
        let mut state = lock(&self.state);
        if state.muted {
            return false;
        }
        state.unread += count;
        self.conn.charge(count);
        true
    }

    /// Ends one side. True when this was the last, so that the stream leaves the table.
    fn end(&self, out: bool) -> bool {
        let mut state = lock(&self.state);
        let before = state.out_ended && state.in_ended;
        if out {
            state.out_ended = true;
            state.out.clear();
        } else {
            state.in_ended = true;
        }
        !before && state.out_ended && state.in_ended
    }

    pub fn in_ended(&self) -> bool {
        lock(&self.state).in_ended
    }

    /// True for the first who learns that the connection is gone.
    fn lose(&self) -> bool {
        let mut state = lock(&self.state);
        let ended = state.out_ended && state.in_ended;
        let first = !state.lost && !ended;
        state.lost = true;
        first
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.settle();
        self.conn.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The open streams of a node.
#[derive(Debug, Default)]
pub struct Streams {
    table: Mutex<HashMap<u64, Arc<Stream>>>,
    next_id: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
}

impl Streams {
    fn get(&self, id: u64) -> Option<Arc<Stream>> {
        lock(&self.table).get(&id).cloned()
    }

    fn insert(&self, stream: &Arc<Stream>) {
        lock(&self.table).insert(stream.id, stream.clone());
    }

    pub fn len(&self) -> usize {
        lock(&self.table).len()
    }

    pub fn end_out(&self, stream: &Stream) {
        if stream.end(true) {
            lock(&self.table).remove(&stream.id);
        }
    }

    pub fn end_in(&self, stream: &Stream) {
        if stream.end(false) {
            lock(&self.table).remove(&stream.id);
        }
    }

    /// The connection is gone: both sides end, and the application hears of it once.
    pub fn lost(&self, core: &Core, stream: &Arc<Stream>, reason: String) {
        let first = stream.lose();
        self.end_out(stream);
        self.end_in(stream);
        if first {
            core.queue.push(Event::Lost(stream.clone(), reason));
        }
    }

    pub fn write(&self, id: u64, data: Bytes) -> Result<bool, Error> {
        self.get(id).ok_or(Error::UnknownStream(id))?.write(data)
    }

    pub fn finish(&self, id: u64) {
        if let Some(stream) = self.get(id) {
            stream.finish();
        }
    }

    pub fn reset(&self, id: u64, code: u64) {
        if let Some(stream) = self.get(id) {
            stream.reset(code);
        }
    }

    pub fn stop(&self, id: u64, code: u64) {
        if let Some(stream) = self.get(id) {
            stream.stop(code);
        }
    }

    pub fn consumed(&self, id: u64, count: u64) {
        if let Some(stream) = self.get(id) {
            stream.consumed(count);
        }
    }

    pub fn trust(&self, id: u64) {
        if let Some(stream) = self.get(id) {
            stream.conn.trust();
        }
    }

    /// Streams whose finished side is still on its way.
    pub fn finishing(&self) -> usize {
        lock(&self.table)
            .values()
            .filter(|stream| {
                let state = lock(&stream.state);
                state.finish && !state.out_ended && state.reset.is_none()
            })
            .count()
    }
}

/// A stream that we opened. Its tasks start with [`start`], after the operation has been reported.
pub fn opened(core: &Arc<Core>, conn: &Arc<Conn>, send: SendStream, recv: RecvStream) -> Opened {
    let stream = Stream::new(core, conn, None);
    core.streams.insert(&stream);
    Opened { stream, send: Sender::new(send), recv }
}

/// The halves of an opened stream that nobody reads or writes yet.
pub struct Opened {
    pub stream: Arc<Stream>,
    send: Sender,
    recv: RecvStream,
}

impl Opened {
    pub fn start(self, core: &Arc<Core>) {
        core.spawn(stream_io::write(core.clone(), self.stream.clone(), self.send));
        core.spawn(stream_io::read(core.clone(), self.stream, self.recv, None));
    }
}

/// A stream that a peer opened. The application hears of it with its first bytes, not before.
pub fn accepted(
    core: &Arc<Core>,
    conn: &Arc<Conn>,
    permit: OwnedSemaphorePermit,
    send: SendStream,
    recv: RecvStream,
) {
    let stream = Stream::new(core, conn, Some(permit));
    core.spawn(stream_io::read(core.clone(), stream, recv, Some(send)));
}

impl Streams {
    /// Makes an accepted stream known, just before its first data.
    pub fn announce(&self, core: &Arc<Core>, stream: &Arc<Stream>, send: Sender) {
        self.insert(stream);
        core.queue.push(Event::Accepted(stream.clone()));
        core.spawn(stream_io::write(core.clone(), stream.clone(), send));
    }
}
