//! The open streams of a node: the table that Python's stream numbers lead to.
//!
//! A stream leaves it when both of its sides have ended and the application has taken its last event.
//! Not before, or `stop` could not reach what still waits in the queue. Numbers are never used again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use iroh::endpoint::{RecvStream, SendStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    conn::Conn,
    core::Core,
    error::Error,
    events::Event,
    runtime::lock,
    stream::Stream,
    stream_io::{self, Sender},
};

/// The open streams of a node.
#[derive(Debug, Default)]
pub struct Streams {
    table: Mutex<HashMap<u64, Arc<Stream>>>,
    next_id: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
}

impl Streams {
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

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
        stream.end(true);
        self.sweep(stream);
    }

    pub fn end_in(&self, stream: &Stream) {
        stream.end(false);
        self.sweep(stream);
    }

    /// The application has taken the last event of this stream's inbound side.
    pub fn settle(&self, stream: &Stream) {
        stream.settle();
        self.sweep(stream);
    }

    fn sweep(&self, stream: &Stream) {
        if stream.is_over() {
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
            self.sweep(&stream);
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
        lock(&self.table).values().filter(|stream| stream.is_finishing()).count()
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
    // Wrapped here and not in the task, which a closing node drops before its first step.
    core.spawn(stream_io::read(core.clone(), stream, recv, Some(Sender::new(send))));
}

impl Streams {
    /// Makes an accepted stream known, just before its first data.
    pub fn announce(&self, core: &Arc<Core>, stream: &Arc<Stream>, send: Sender) {
        self.insert(stream);
        core.queue.push(Event::Accepted(stream.clone()));
        core.spawn(stream_io::write(core.clone(), stream.clone(), send));
    }
}
