//! The two tasks of a stream: one writes what is queued, one reads as far as credit goes.
//!
//! noq takes a dropped `SendStream` for a clean finish, so a crash would look like a complete
//! answer: [`Sender`] resets on every path that does not finish on purpose.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use iroh::endpoint::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::time::{Instant, sleep_until};

use crate::{
    core::Core,
    events::Event,
    stream::{Step, Stream},
};

/// PROTOCOL §5: the code of a node that goes away.
const CODE_SHUTDOWN: VarInt = VarInt::from_u32(5);
/// PROTOCOL §5: the code for a peer that breaks the rules, here the one about first bytes.
const CODE_PROTOCOL: VarInt = VarInt::from_u32(3);
/// An accepted stream must bring its first bytes within this time.
const FIRST_BYTES: Duration = Duration::from_secs(10);

fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

/// A `SendStream` that resets when dropped unfinished.
pub struct Sender {
    stream: SendStream,
    done: bool,
}

impl Sender {
    pub fn new(stream: SendStream) -> Self {
        Sender { stream, done: false }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.done {
            // Fails only for a stream that is closed already.
            let _ = self.stream.reset(CODE_SHUTDOWN);
        }
    }
}

/// Why the writing ended.
enum End {
    Done,
    Stopped(u64),
    Lost(String),
}

pub async fn write(core: Arc<Core>, stream: Arc<Stream>, mut send: Sender) {
    let end = core.cancel.run_until_cancelled(write_all(&core, &stream, &mut send)).await;
    match end {
        Some(End::Done) => core.streams.end_out(&stream),
        Some(End::Stopped(code)) => {
            // Ended before it is said, so that whoever hears it finds writes failing.
            core.streams.end_out(&stream);
            core.queue.push(Event::Stopped(stream.clone(), code));
        }
        // The reader may still have data to deliver and reports the loss after it.
        Some(End::Lost(_)) if !stream.in_ended() => core.streams.end_out(&stream),
        Some(End::Lost(reason)) => core.streams.lost(&core, &stream, reason),
        None => core.streams.lost(&core, &stream, "the node was closed".to_owned()),
    }
}

async fn write_all(core: &Core, stream: &Arc<Stream>, send: &mut Sender) -> End {
    let stopped = send.stream.stopped();
    tokio::pin!(stopped);
    let stop_end = |outcome: Result<Option<VarInt>, StoppedError>| match outcome {
        Ok(Some(code)) => End::Stopped(code.into_inner()),
        Ok(None) => End::Done,
        Err(StoppedError::ConnectionLost(error)) => End::Lost(error.to_string()),
        Err(error) => End::Lost(error.to_string()),
    };
    loop {
        match stream.next_step() {
            Step::Reset(code) => {
                let _ = send.stream.reset(varint(code));
                send.done = true;
                return End::Done;
            }
            Step::Write(data) => {
                let count = data.len();
                let outcome = tokio::select! {
                    outcome = send.stream.write_chunk(data) => outcome,
                    () = stream.reset_wake.notified() => continue,
                };
                match outcome {
                    Ok(()) => {
                        core.streams.bytes_sent.fetch_add(count as u64, Ordering::Relaxed);
                        if stream.wrote(count) {
                            core.queue.push(Event::Writable(stream.clone()));
                        }
                    }
                    Err(WriteError::Stopped(code)) => return End::Stopped(code.into_inner()),
                    Err(WriteError::ConnectionLost(error)) => return End::Lost(error.to_string()),
                    Err(error) => return End::Lost(error.to_string()),
                }
            }
            Step::Finish => {
                if send.stream.finish().is_err() {
                    return End::Done;
                }
                send.done = true;
                tokio::select! {
                    outcome = &mut stopped => return stop_end(outcome),
                    () = stream.reset_wake.notified() => continue,
                }
            }
            Step::Wait => tokio::select! {
                outcome = &mut stopped => return stop_end(outcome),
                () = stream.out_wake.notified() => {}
                () = stream.reset_wake.notified() => {}
            },
        }
    }
}

/// `send` is given for accepted streams: the first bytes announce the stream and start its writer.
pub async fn read(core: Arc<Core>, stream: Arc<Stream>, mut recv: RecvStream, send: Option<Sender>) {
    let mut unannounced = send;
    let outcome =
        core.cancel.run_until_cancelled(read_all(&core, &stream, &mut recv, &mut unannounced)).await;
    if let Some(mut sender) = unannounced {
        // The application never heard of this stream.
        let _ = recv.stop(CODE_PROTOCOL);
        let _ = sender.stream.reset(CODE_PROTOCOL);
        sender.done = true;
        return;
    }
    match outcome {
        Some(Some(Event::Lost(_, reason))) => core.streams.lost(&core, &stream, reason),
        Some(event) => {
            core.streams.end_in(&stream);
            if let Some(event) = event {
                core.queue.push(event);
            }
        }
        None => {
            let _ = recv.stop(CODE_SHUTDOWN);
            core.streams.lost(&core, &stream, "the node was closed".to_owned());
        }
    }
}

/// Reads until the last event of this side, which it returns; None after `stop`.
async fn read_all(
    core: &Arc<Core>,
    stream: &Arc<Stream>,
    recv: &mut RecvStream,
    unannounced: &mut Option<Sender>,
) -> Option<Event> {
    let deadline = Instant::now() + FIRST_BYTES;
    // False once it is known that no reset can come any more: all data is here.
    let mut resettable = true;
    loop {
        // Created before the checks, so that what changes after them is not missed.
        let (own, conn, strangers) =
            (stream.in_wake.notified(), stream.conn.wake.notified(), stream.conn.strangers_wake().notified());
        if let Some(code) = stream.stop_code() {
            let _ = recv.stop(varint(code));
            return None;
        }
        let room = stream.room();
        if room == 0 {
            tokio::select! {
                () = own => {}
                () = conn => {}
                () = strangers => {}
                () = sleep_until(deadline), if unannounced.is_some() => return None,
                _ = stream.conn.quic.closed(), if unannounced.is_some() => return None,
                reset = recv.received_reset(), if resettable => match reset {
                    Ok(Some(code)) => return Some(Event::Reset(stream.clone(), code.into_inner())),
                    _ => resettable = false,
                },
            }
            continue;
        }
        let outcome = tokio::select! {
            outcome = recv.read_chunk(room) => outcome,
            () = own => continue,
            () = sleep_until(deadline), if unannounced.is_some() => return None,
        };
        match outcome {
            Ok(Some(data)) => {
                if let Some(sender) = unannounced.take() {
                    core.streams.announce(core, stream, sender);
                }
                core.streams.bytes_received.fetch_add(data.len() as u64, Ordering::Relaxed);
                if stream.charge(data.len() as u64) {
                    // A copy: the chunk is a slice of the received datagrams and would keep them all.
                    core.queue.push(Event::Data(stream.clone(), Bytes::copy_from_slice(&data)));
                }
            }
            Ok(None) => return Some(Event::Finished(stream.clone())),
            Err(ReadError::Reset(code)) => return Some(Event::Reset(stream.clone(), code.into_inner())),
            Err(ReadError::ConnectionLost(error)) => {
                return Some(Event::Lost(stream.clone(), error.to_string()));
            }
            Err(error) => return Some(Event::Lost(stream.clone(), error.to_string())),
        }
    }
}
