//! Bi-streams as Python sees them: verbs that never block, and the state the two tasks share.
//!
//! Each stream has a writer and a reader task (`stream_io.rs`). Its credit is settled when the
//! application has taken its last event.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, atomic::Ordering},
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::{conn::Conn, core::Core, error::Error, runtime::lock};

/// The largest single write: a first frame of 1 MiB + 4 KiB with room to spare.
pub const MAX_WRITE_BYTES: usize = (1 << 20) + (64 << 10);
/// Above this `write` answers False; below half of it EVENT_STREAM_WRITABLE follows.
const HIGH_WATER: usize = 256 << 10;
/// Who writes on in spite of False is refused here, so that memory stays bounded.
const MAX_BUFFERED: usize = 4 * MAX_WRITE_BYTES;
/// What one waiting data event costs beside its bytes, charged while it waits: a peer that sends
/// single bytes would otherwise buy a hundred times its credit in memory.
const EVENT_COST: u64 = 256;

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
    /// The cost of data events that wait in the queue.
    overhead: u64,
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
    pub fn new(core: &Core, conn: &Arc<Conn>, permit: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        conn.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Stream {
            id: core.streams.next_id(),
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

    pub fn write(&self, data: Bytes) -> Result<bool, Error> {
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

    pub fn finish(&self) {
        lock(&self.state).finish = true;
        self.out_wake.notify_one();
    }

    pub fn reset(&self, code: u64) {
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

    pub fn stop(&self, code: u64) {
        lock(&self.state).stop.get_or_insert(code);
        self.settle();
        self.in_wake.notify_one();
    }

    pub fn consumed(&self, count: u64) {
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
        let owed = std::mem::take(&mut state.unread) + std::mem::take(&mut state.overhead);
        drop(state);
        self.conn.release(owed);
    }

    /// A data event has left the queue.
    pub fn delivered(&self) {
        let mut state = lock(&self.state);
        let cost = state.overhead.min(EVENT_COST);
        state.overhead -= cost;
        drop(state);
        self.conn.release(cost);
        self.in_wake.notify_one();
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
        let owed = {
            let state = lock(&self.state);
            state.unread + state.overhead
        };
        if !self.conn.has_room() {
            return 0;
        }
        let chunk = if self.conn.is_trusted() { 64 << 10 } else { 16 << 10 };
        self.credit.saturating_sub(owed).min(chunk) as usize
    }

    /// Counts data handed to the application; false if it wants no more.
    pub fn charge(&self, count: u64) -> bool {
        let mut state = lock(&self.state);
        if state.muted {
            return false;
        }
        state.unread += count;
        state.overhead += EVENT_COST;
        self.conn.charge(count + EVENT_COST);
        true
    }

    pub fn end(&self, out: bool) {
        let mut state = lock(&self.state);
        if out {
            state.out_ended = true;
            state.out.clear();
        } else {
            state.in_ended = true;
        }
    }

    /// Both sides have ended and the application knows it.
    pub fn is_over(&self) -> bool {
        let state = lock(&self.state);
        state.out_ended && state.in_ended && state.muted
    }

    pub fn in_ended(&self) -> bool {
        lock(&self.state).in_ended
    }

    /// Finished, and not all of it acknowledged yet.
    pub fn is_finishing(&self) -> bool {
        let state = lock(&self.state);
        state.finish && !state.out_ended && state.reset.is_none()
    }

    /// True for the first who learns that the connection is gone.
    pub fn lose(&self) -> bool {
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
