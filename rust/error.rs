//! Every error of this crate, and the one table that maps it to a Python class and a code.
//!
//! Two kinds: an [`Error`] is raised by the call that caused it; a [`Failure`] ends an operation
//! that had already been started, and travels as an OP_FAILED event.

use std::fmt;

use iroh::endpoint::{ConnectError, ConnectWithOptsError, ConnectingError, ConnectionError};
use pyo3::{create_exception, exceptions::PyException, prelude::*};

create_exception!(
    _native,
    NativeError,
    PyException,
    "Root of the errors of this module. `code` is one lower-case word, stable across versions."
);
create_exception!(_native, NodeClosedError, NativeError, "code closed: the node was closed, or closes.");
create_exception!(
    _native,
    ForkedError,
    NativeError,
    "code forked: the process forked after its first node; make nodes in the child, after exec or spawn."
);
create_exception!(
    _native,
    OversizeError,
    NativeError,
    "code oversize: the message exceeds what gossip or a stream write takes. Nothing was sent."
);
create_exception!(
    _native,
    NotJoinedError,
    NativeError,
    "code not_joined: no topic has been joined yet, or no neighbour is there to hear it."
);
create_exception!(
    _native,
    RateLimitedError,
    NativeError,
    "code rate_limited: the outbound gossip budget is spent; try again later."
);
create_exception!(
    _native,
    UnknownStreamError,
    NativeError,
    "code unknown_stream: no such stream, or it has ended."
);
create_exception!(
    _native,
    ConfigError,
    NativeError,
    "code config: a value given is out of its range; the message names it."
);
create_exception!(
    _native,
    TicketError,
    NativeError,
    "A ticket that cannot be read. code: truncated | checksum | wrong_kind | newer_version | malformed."
);

/// What is wrong with a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketDefect {
    Truncated,
    Checksum,
    WrongKind,
    NewerVersion,
    Malformed,
}

/// An error raised at once by the call that caused it.
#[derive(Debug)]
pub enum Error {
    Closed,
    Forked,
    Oversize { size: usize, limit: usize },
    NotJoined,
    NoNeighbor,
    RateLimited,
    Congested,
    UnknownStream(u64),
    Config(String),
    Ticket(TicketDefect),
    Internal(String),
}

impl Error {
    /// The table: Python class and code of every error.
    fn class_and_code<'py>(&self, py: Python<'py>) -> (Bound<'py, pyo3::types::PyType>, &'static str) {
        match self {
            Error::Closed => (py.get_type::<NodeClosedError>(), "closed"),
            Error::Forked => (py.get_type::<ForkedError>(), "forked"),
            Error::Oversize { .. } => (py.get_type::<OversizeError>(), "oversize"),
            Error::NotJoined | Error::NoNeighbor => (py.get_type::<NotJoinedError>(), "not_joined"),
            Error::RateLimited | Error::Congested => (py.get_type::<RateLimitedError>(), "rate_limited"),
            Error::UnknownStream(_) => (py.get_type::<UnknownStreamError>(), "unknown_stream"),
            Error::Config(_) => (py.get_type::<ConfigError>(), "config"),
            Error::Ticket(defect) => (py.get_type::<TicketError>(), defect.code()),
            Error::Internal(_) => (py.get_type::<NativeError>(), "internal"),
        }
    }
}

impl TicketDefect {
    fn code(self) -> &'static str {
        match self {
            TicketDefect::Truncated => "truncated",
            TicketDefect::Checksum => "checksum",
            TicketDefect::WrongKind => "wrong_kind",
            TicketDefect::NewerVersion => "newer_version",
            TicketDefect::Malformed => "malformed",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => f.write_str("the node is closed"),
            Error::Forked => f.write_str(
                "the process forked after its first node: make nodes in the child, after exec or spawn",
            ),
            Error::Oversize { size, limit } => {
                write!(f, "{size} bytes exceed the limit of {limit}; nothing was sent")
            }
            Error::NotJoined => f.write_str("no topic has been joined yet"),
            Error::NoNeighbor => f.write_str("no neighbour is there to hear it; nothing was sent"),
            Error::RateLimited => f.write_str("the outbound gossip budget is spent; nothing was sent"),
            Error::Congested => {
                f.write_str("outbound gossip is congested by a stalled peer; nothing was sent")
            }
            Error::UnknownStream(stream) => write!(f, "stream {stream} does not exist or has ended"),
            Error::Config(what) => f.write_str(what),
            Error::Ticket(TicketDefect::Truncated) => f.write_str("the ticket is cut off: copy all of it"),
            Error::Ticket(TicketDefect::Checksum) => {
                f.write_str("the ticket has a typing error (its checksum does not match)")
            }
            Error::Ticket(TicketDefect::WrongKind) => {
                f.write_str("this is no llama-gossip ticket (one begins with lg1)")
            }
            Error::Ticket(TicketDefect::NewerVersion) => {
                f.write_str("the ticket was made by a newer version of llama-gossip: update this one")
            }
            Error::Ticket(TicketDefect::Malformed) => f.write_str("the ticket is malformed"),
            Error::Internal(what) => write!(f, "internal error: {what}"),
        }
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        // Only ever converted on a Python thread, inside a call: attaching is a no-op there.
        Python::attach(|py| {
            let (class, code) = error.class_and_code(py);
            match class.call1((error.to_string(),)) {
                Ok(value) => match value.setattr("code", code) {
                    Ok(()) => PyErr::from_value(value),
                    Err(failed) => failed,
                },
                Err(failed) => failed,
            }
        })
    }
}

/// Adds the classes to the module; the class attribute `code` is what an instance made by hand has.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    for (name, class, code) in [
        ("NativeError", py.get_type::<NativeError>(), "native"),
        ("NodeClosedError", py.get_type::<NodeClosedError>(), "closed"),
        ("ForkedError", py.get_type::<ForkedError>(), "forked"),
        ("OversizeError", py.get_type::<OversizeError>(), "oversize"),
        ("NotJoinedError", py.get_type::<NotJoinedError>(), "not_joined"),
        ("RateLimitedError", py.get_type::<RateLimitedError>(), "rate_limited"),
        ("UnknownStreamError", py.get_type::<UnknownStreamError>(), "unknown_stream"),
        ("ConfigError", py.get_type::<ConfigError>(), "config"),
        ("TicketError", py.get_type::<TicketError>(), "malformed"),
    ] {
        class.setattr("code", code)?;
        class.setattr("__module__", "llama_gossip._native")?;
        module.add(name, class)?;
    }
    Ok(())
}

/// How a started operation failed: the code of OP_FAILED and a sentence.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
}

impl Failure {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }

    pub fn closed() -> Self {
        Failure::new("closed", "the node was closed")
    }

    pub fn timeout(what: &str) -> Self {
        Failure::new("timeout", format!("{what} took too long"))
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        let code = match &error {
            ConnectionError::TimedOut => "timeout",
            ConnectionError::LocallyClosed => "closed",
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::VersionMismatch => "refused",
            _ => "lost",
        };
        Failure::new(code, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let message = error.to_string();
        match error {
            ConnectError::Connect { source, .. } => {
                let code = match &source {
                    ConnectWithOptsError::SelfConnect { .. } => "self_dial",
                    ConnectWithOptsError::NoAddress { .. } => "no_address",
                    ConnectWithOptsError::LocallyRejected { .. } => "not_allowed",
                    ConnectWithOptsError::EndpointClosed { .. } => "closed",
                    _ => "lost",
                };
                Failure::new(code, message)
            }
            ConnectError::Connecting { source, .. } => match source {
                ConnectingError::ConnectionError { source, .. } => source.into(),
                ConnectingError::LocallyRejected { .. } => Failure::new("not_allowed", message),
                ConnectingError::HandshakeFailure { .. } => Failure::new("refused", message),
                _ => Failure::new("lost", message),
            },
            ConnectError::Connection { source, .. } => source.into(),
            _ => Failure::new("lost", message),
        }
    }
}
