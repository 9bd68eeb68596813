//! What Python hands in, checked: every fault becomes a `ConfigError` that names the argument.

use std::{net::SocketAddr, path::PathBuf};

use bytes::Bytes;
use iroh::EndpointId;
use iroh_gossip::net::GOSSIP_ALPN;
use pyo3::{
    Borrowed,
    buffer::PyBuffer,
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBytes, PyString},
};

use crate::error::Error;

/// The checked arguments of a node, without its secret key.
#[derive(Debug)]
pub struct Settings {
    pub alpn: Vec<u8>,
    pub rendezvous_dir: Option<PathBuf>,
    pub queue_items: usize,
    pub queue_bytes: usize,
    pub gossip_per_s: u32,
    pub stream_credit: usize,
    pub connection_credit: usize,
}

/// Bytes of any object with the buffer protocol.
#[derive(Debug)]
pub struct Data(pub Bytes);

impl<'py> FromPyObject<'_, 'py> for Data {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Data(Bytes::copy_from_slice(bytes.as_bytes())));
        }
        match PyBuffer::<u8>::get(&object) {
            Ok(buffer) => Ok(Data(buffer.to_vec(object.py())?.into())),
            Err(_) => Err(PyTypeError::new_err("a bytes-like object is required")),
        }
    }
}

/// Text from a peer or a user. Lone surrogates, which Python allows in a str, become U+FFFD: what is
/// no address or no ticket then is one no more than before, and says so in its own error.
#[derive(Debug)]
pub struct Text(pub String);

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Text(object.cast::<PyString>()?.to_string_lossy().into_owned()))
    }
}

impl Data {
    pub fn array<const N: usize>(&self, name: &str) -> Result<[u8; N], Error> {
        <[u8; N]>::try_from(&self.0[..])
            .map_err(|_| Error::Config(format!("{name}: {N} bytes are needed, not {}", self.0.len())))
    }

    pub fn node_id(&self, name: &str) -> Result<EndpointId, Error> {
        EndpointId::from_bytes(&self.array(name)?)
            .map_err(|_| Error::Config(format!("{name}: these 32 bytes are no ed25519 public key")))
    }
}

/// A node with its addresses, as Python lists them.
pub type NamedPeer = (Data, Vec<Text>);

/// An address within reach of this version (`host`): loopback with a port. Everything else that a
/// peer may claim is ignored, so that nothing ever tries to leave the host.
pub fn reachable(address: &str) -> Option<SocketAddr> {
    let address: SocketAddr = address.parse().ok()?;
    (address.ip().is_loopback() && address.port() != 0).then_some(address)
}

pub fn reachable_all(addresses: &[Text]) -> Vec<SocketAddr> {
    addresses.iter().filter_map(|address| reachable(&address.0)).collect()
}

pub fn peers(name: &str, peers: &[NamedPeer]) -> Result<Vec<(EndpointId, Vec<SocketAddr>)>, Error> {
    peers.iter().map(|(id, addresses)| Ok((id.node_id(name)?, reachable_all(addresses)))).collect()
}

pub fn node_ids(name: &str, ids: &[Data]) -> Result<Vec<EndpointId>, Error> {
    ids.iter().map(|id| id.node_id(name)).collect()
}

pub fn check_reach(reach: &str) -> Result<(), Error> {
    match reach {
        "host" => Ok(()),
        "lan" | "internet" => {
            Err(Error::Config(format!("reach: {reach} is not available in this version, only host is")))
        }
        _ => Err(Error::Config("reach: one of host, lan, internet is meant".to_owned())),
    }
}

impl Settings {
    pub fn check(&self) -> Result<(), Error> {
        if self.alpn.is_empty() || self.alpn.len() > 255 || self.alpn == GOSSIP_ALPN {
            return Err(Error::Config("alpn: 1 to 255 bytes, and not the one of iroh-gossip".to_owned()));
        }
        at_least("queue_items", self.queue_items, 1)?;
        at_least("queue_bytes", self.queue_bytes, 1)?;
        at_least("gossip_per_s", self.gossip_per_s as usize, 1)?;
        at_least("stream_credit", self.stream_credit, 1)?;
        at_least("connection_credit", self.connection_credit, self.stream_credit)
    }
}

fn at_least(name: &str, value: usize, least: usize) -> Result<(), Error> {
    if value >= least && value <= 1 << 40 {
        Ok(())
    } else {
        Err(Error::Config(format!("{name}: {value} is out of range, at least {least} is needed")))
    }
}
