//! One tokio runtime a process, its death at interpreter exit, and the detection of a fork.
//!
//! Worker threads never attach to Python: events go through a queue, so no worker can wait for the
//! GIL and no GIL holder for a worker. Threads do not survive `fork()`, so a child must not touch
//! what its parent built: every entry point asks [`check_fork`] first.

use std::{
    mem, process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{core::Core, error::Error};

/// Two: one would let a long poll of a handshake delay the others; more gain nothing on loopback.
const WORKERS: usize = 2;
/// File reads of iroh's start-up are all that uses blocking threads.
const BLOCKING_THREADS: usize = 4;
/// At interpreter exit all nodes together get this long to say goodbye …
const EXIT_GOODBYE: Duration = Duration::from_millis(1200);
/// … and the workers this long to stop: together below the promised 2 s.
const EXIT_WORKERS: Duration = Duration::from_millis(300);

enum Phase {
    Unstarted,
    Running(Runtime),
    Ended,
}

static PHASE: Mutex<Phase> = Mutex::new(Phase::Unstarted);
static NODES: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());
/// The process that started the runtime; 0 = none has.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Locks without a panic: what a panicking holder left behind is still the best state there is.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True in a child that inherited a runtime whose threads it does not have.
pub fn is_forked() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != process::id()
}

pub fn check_fork() -> Result<(), Error> {
    if is_forked() { Err(Error::Forked) } else { Ok(()) }
}

/// The runtime, started by the first call.
pub fn handle() -> Result<Handle, Error> {
    check_fork()?;
    let mut phase = lock(&PHASE);
    match &*phase {
        Phase::Running(runtime) => Ok(runtime.handle().clone()),
        Phase::Ended => Err(Error::Closed),
        Phase::Unstarted => {
            let runtime = Builder::new_multi_thread()
                .worker_threads(WORKERS)
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_name("llama-gossip-io")
                .enable_all()
                .build()
                .map_err(|error| Error::Internal(format!("no threads for the network: {error}")))?;
            let handle = runtime.handle().clone();
            OWNER.store(process::id(), Ordering::Relaxed);
            *phase = Phase::Running(runtime);
            Ok(handle)
        }
    }
}

/// Remembers a node for [`at_exit`].
pub fn register(core: &Arc<Core>) {
    let mut nodes = lock(&NODES);
    nodes.retain(|node| node.strong_count() > 0);
    nodes.push(Arc::downgrade(core));
}

/// Registered with Python's `atexit`: closes what lives, then stops the threads, in bounded time.
#[pyfunction]
#[pyo3(name = "_at_exit")]
pub fn at_exit(py: Python<'_>) {
    if is_forked() {
        return;
    }
    let nodes: Vec<Arc<Core>> = lock(&NODES).iter().filter_map(Weak::upgrade).collect();
    let Phase::Running(runtime) = mem::replace(&mut *lock(&PHASE), Phase::Ended) else {
        return;
    };
    py.detach(move || {
        for node in &nodes {
            node.close(EXIT_GOODBYE);
        }
        let goodbye = async {
            for node in &nodes {
                node.wait_closed().await;
            }
        };
        runtime.block_on(async {
            // Whether all were in time does not matter: the process goes.
            let _ = tokio::time::timeout(EXIT_GOODBYE, goodbye).await;
        });
        drop(nodes);
        runtime.shutdown_timeout(EXIT_WORKERS);
    });
}
