//! The native boundary of llama-gossip: iroh endpoints, gossip and streams for Python.
//!
//! Table of contents. It knows keys, endpoints, topics, streams, discovery and addresses; it knows
//! nothing of messages. The contract is `python/llama_gossip/_native.pyi`.
//!
//! | module | what |
//! |---|---|
//! | `node` | the Python class, verbs that never wait |
//! | `core` | the inside of a node: bind, tasks, close |
//! | `gossip`, `maintainer` | the topic behind a guard, and what keeps it joined |
//! | `conn`, `streams` | connections with limits, the table of streams |
//! | `stream`, `stream_io` | a stream with credit, its two tasks |
//! | `peers`, `book`, `discovery` | the handshake hook, the address book, the rendezvous directory |
//! | `events`, `wake` | the queue to Python and its descriptor |
//! | `config`, `ticket`, `keys` | arguments, tickets, signatures |
//! | `error`, `runtime` | the table of errors; the process-wide runtime, its end, forks |

mod book;
mod config;
mod conn;
mod core;
mod discovery;
mod error;
mod events;
mod gossip;
mod keys;
mod maintainer;
mod node;
mod peers;
mod runtime;
mod stream;
mod stream_io;
mod streams;
mod ticket;
mod wake;

use pyo3::{prelude::*, types::PyDict};

/// The native boundary: iroh endpoints, gossip and bi-streams. It knows nothing of messages.
#[pymodule]
mod _native {
    use super::*;

    #[pymodule_export]
    use super::keys::{decode_ticket, encode_ticket, public_key, sign, verify};
    #[pymodule_export]
    use super::node::Node;
    #[pymodule_export]
    use super::versions;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        error::register(module)?;
        for (name, number) in [
            ("EVENT_OP_OK", events::OP_OK),
            ("EVENT_OP_FAILED", events::OP_FAILED),
            ("EVENT_GOSSIP", events::GOSSIP),
            ("EVENT_LAG", events::LAG),
            ("EVENT_NEIGHBOR_UP", events::NEIGHBOR_UP),
            ("EVENT_NEIGHBOR_DOWN", events::NEIGHBOR_DOWN),
            ("EVENT_STREAM_ACCEPTED", events::STREAM_ACCEPTED),
            ("EVENT_STREAM_DATA", events::STREAM_DATA),
            ("EVENT_STREAM_FINISHED", events::STREAM_FINISHED),
            ("EVENT_STREAM_RESET", events::STREAM_RESET),
            ("EVENT_STREAM_STOPPED", events::STREAM_STOPPED),
            ("EVENT_STREAM_LOST", events::STREAM_LOST),
            ("EVENT_STREAM_WRITABLE", events::STREAM_WRITABLE),
            ("EVENT_PEER_FOUND", events::PEER_FOUND),
            ("EVENT_PEER_GONE", events::PEER_GONE),
            ("EVENT_CLOSED", events::CLOSED),
            ("MAX_GOSSIP_BYTES", gossip::MAX_GOSSIP_BYTES as u32),
            ("MAX_WRITE_BYTES", stream::MAX_WRITE_BYTES as u32),
        ] {
            module.add(name, number)?;
        }
        // The stub is the list of what is public; a second one would only differ some day.
        module.dict().del_item("__all__")?;
        let py = module.py();
        py.import("atexit")?.call_method1("register", (wrap_pyfunction!(runtime::at_exit, py)?,))?;
        #[cfg(feature = "log")]
        start_log();
        Ok(())
    }
}

/// {"native", "iroh", "iroh_gossip", "profile": "debug" | "release"}.
#[pyfunction]
fn versions(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let versions = PyDict::new(py);
    versions.set_item("native", env!("CARGO_PKG_VERSION"))?;
    versions.set_item("iroh", env!("LG_IROH_VERSION"))?;
    versions.set_item("iroh_gossip", env!("LG_IROH_GOSSIP_VERSION"))?;
    versions.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    Ok(versions)
}

/// Nothing is printed unless RUST_LOG asks for it.
#[cfg(feature = "log")]
fn start_log() {
    if std::env::var_os("RUST_LOG").is_some() {
        // Fails when another extension of this process has installed its own: then that one logs.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .try_init();
    }
}
