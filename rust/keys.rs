//! Functions without a node: keys, signatures and tickets.

use iroh::{EndpointId, SecretKey, Signature};
use pyo3::{prelude::*, types::PyBytes};

use crate::{
    config::{Data, NamedPeer, Text},
    error::Error,
    events::to_strings,
    ticket::{Peer, Ticket},
};

fn secret(key: &Data) -> Result<SecretKey, Error> {
    Ok(SecretKey::from_bytes(&key.array("secret_key")?))
}

/// The node id (32 bytes) of a 32-byte secret key.
#[pyfunction]
pub fn public_key(py: Python<'_>, secret_key: Data) -> PyResult<Bound<'_, PyBytes>> {
    Ok(PyBytes::new(py, secret(&secret_key)?.public().as_bytes()))
}

/// ed25519 signature (64 bytes).
#[pyfunction]
pub fn sign(py: Python<'_>, secret_key: Data, message: Data) -> PyResult<Bound<'_, PyBytes>> {
    Ok(PyBytes::new(py, &secret(&secret_key)?.sign(&message.0).to_bytes()))
}

/// Strict verification by the Rust stack; what is no key or no signature is simply not valid.
#[pyfunction]
pub fn verify(node_id: Data, message: Data, signature: Data) -> bool {
    let (Ok(id), Ok(signature)) = (node_id.array::<32>("node_id"), signature.array::<64>("signature")) else {
        return false;
    };
    EndpointId::from_bytes(&id)
        .is_ok_and(|id| id.verify(&message.0, &Signature::from_bytes(&signature)).is_ok())
}

/// One line `lg1…`: version, network secret, display name, peers with addresses, checksum.
#[pyfunction]
#[pyo3(signature = (secret, peers, network=Text(String::new())), text_signature = "(secret, peers, network='')")]
pub fn encode_ticket(secret: Data, peers: Vec<NamedPeer>, network: Text) -> PyResult<String> {
    let peers = peers
        .iter()
        .map(|(id, addresses)| {
            let addresses = addresses
                .iter()
                .map(|Text(address)| {
                    address.parse().map_err(|_| Error::Config(format!("peers: {address:?} is no ip:port")))
                })
                .collect::<Result<_, _>>()?;
            Ok((id.node_id("peers")?, addresses))
        })
        .collect::<Result<Vec<Peer>, Error>>()?;
    Ok(Ticket { secret: secret.array("secret")?, network: network.0, peers }.encode()?)
}

type Decoded<'py> = (Bound<'py, PyBytes>, Vec<(Bound<'py, PyBytes>, Vec<String>)>, String);

/// (secret, peers, network) of a ticket; white space around it is ignored.
#[pyfunction]
pub fn decode_ticket<'py>(py: Python<'py>, text: Text) -> PyResult<Decoded<'py>> {
    let ticket = Ticket::decode(&text.0)?;
    let peers = ticket
        .peers
        .iter()
        .map(|(id, addresses)| (PyBytes::new(py, id.as_bytes()), to_strings(addresses)))
        .collect();
    Ok((PyBytes::new(py, &ticket.secret), peers, ticket.network))
}
