//! Tickets: one line that lets its holder into a network.
//!
//! `lg1` + base32 (lower case, no padding) of
//! `length u16 ‖ secret 32 ‖ n u8 ‖ name ‖ count u8 ‖ count × (id 32 ‖ n u8 ‖ n × (4|6 ‖ ip ‖ port u16)) ‖ checksum 4`,
//! big-endian; `length` counts what follows it without the checksum. The length comes first so that
//! a ticket cut off by copying is told apart from one with a typing error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use data_encoding::{BASE32_NOPAD, DecodeKind};
use iroh::EndpointId;

use crate::error::{Error, TicketDefect};

const KIND: &str = "lg";
const VERSION: &str = "1";
/// Covers the version, so that a ticket of one version never passes for another.
const CHECKSUM_CONTEXT: &str = "llama-gossip ticket 1";
const CHECKSUM_LEN: usize = 4;
const MAX_NAME: usize = 40;
const MAX_PEERS: usize = 8;
const MAX_ADDRESSES: usize = 8;
/// Longer than any ticket that fits the limits above.
const MAX_TEXT: usize = 8192;

pub type Peer = (EndpointId, Vec<SocketAddr>);

#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    pub secret: [u8; 32],
    pub network: String,
    pub peers: Vec<Peer>,
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3::derive_key(CHECKSUM_CONTEXT, body);
    [hash[0], hash[1], hash[2], hash[3]]
}

impl Ticket {
    pub fn encode(&self) -> Result<String, Error> {
        if self.network.len() > MAX_NAME {
            return Err(Error::Config(format!("network: a name has at most {MAX_NAME} bytes")));
        }
        if self.peers.len() > MAX_PEERS {
            return Err(Error::Config(format!("peers: a ticket names at most {MAX_PEERS}")));
        }
        let mut body = self.secret.to_vec();
        body.push(self.network.len() as u8);
        body.extend_from_slice(self.network.as_bytes());
        body.push(self.peers.len() as u8);
        for (id, addresses) in &self.peers {
            if addresses.len() > MAX_ADDRESSES {
                return Err(Error::Config(format!("peers: a peer has at most {MAX_ADDRESSES} addresses")));
            }
            body.extend_from_slice(id.as_bytes());
            body.push(addresses.len() as u8);
            for address in addresses {
                match address.ip() {
                    IpAddr::V4(ip) => {
                        body.push(4);
                        body.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        body.push(6);
                        body.extend_from_slice(&ip.octets());
                    }
                }
                body.extend_from_slice(&address.port().to_be_bytes());
            }
        }
        let mut data = (body.len() as u16).to_be_bytes().to_vec();
        data.extend_from_slice(&body);
        data.extend_from_slice(&checksum(&body));
        Ok(format!("{KIND}{VERSION}{}", BASE32_NOPAD.encode(&data).to_ascii_lowercase()))
    }

    pub fn decode(text: &str) -> Result<Self, Error> {
        Self::parse(text.trim()).map_err(Error::Ticket)
    }

    fn parse(text: &str) -> Result<Self, TicketDefect> {
        let lower = text.to_ascii_lowercase();
        let rest = match lower.strip_prefix(KIND) {
            Some(rest) => rest,
            None if !lower.is_empty() && KIND.starts_with(&lower) => return Err(TicketDefect::Truncated),
            None => return Err(TicketDefect::WrongKind),
        };
        let Some(encoded) = rest.strip_prefix(VERSION) else {
            return Err(match rest.bytes().next() {
                None => TicketDefect::Truncated,
                Some(b'2'..=b'9') => TicketDefect::NewerVersion,
                Some(_) => TicketDefect::WrongKind,
            });
        };
        if encoded.len() > MAX_TEXT {
            return Err(TicketDefect::Malformed);
        }
        let (data, canonical) = decode_base32(&encoded.to_ascii_uppercase())?;
        let Some((length, rest)) = data.split_first_chunk::<2>() else {
            return Err(TicketDefect::Truncated);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if rest.len() < length + CHECKSUM_LEN {
            return Err(TicketDefect::Truncated);
        }
        let (body, sum) = rest.split_at(length);
        if sum.len() > CHECKSUM_LEN {
            return Err(TicketDefect::Malformed);
        }
        if sum != checksum(body) || !canonical {
            return Err(TicketDefect::Checksum);
        }
        Reader(body).ticket()
    }
}

/// The bytes, and whether this is how they are written. A half character at the end is what cutting
/// off leaves; any other fault is a foreign sign.
fn decode_base32(text: &str) -> Result<(Vec<u8>, bool), TicketDefect> {
    let error = match BASE32_NOPAD.decode(text.as_bytes()) {
        Ok(data) => return Ok((data, true)),
        Err(error) => error,
    };
    match (error.kind, text.split_at_checked(text.len().saturating_sub(1))) {
        (DecodeKind::Length, _) => Err(TicketDefect::Truncated),
        // Left-over bits: cut within a byte, which the length then tells, or a wrong last letter.
        (DecodeKind::Trailing, Some((start, _))) => {
            let data = BASE32_NOPAD.decode(format!("{start}A").as_bytes());
            data.map(|data| (data, false)).map_err(|_| TicketDefect::Malformed)
        }
        _ => Err(TicketDefect::Malformed),
    }
}

/// Takes a body apart; whatever is missing or left over is malformed.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TicketDefect> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TicketDefect::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn count(&mut self, limit: usize) -> Result<usize, TicketDefect> {
        let count = usize::from(self.array::<1>()?[0]);
        if count <= limit { Ok(count) } else { Err(TicketDefect::Malformed) }
    }

    fn ticket(mut self) -> Result<Ticket, TicketDefect> {
        let secret = self.array()?;
        let length = self.count(MAX_NAME)?;
        let (name, rest) = self.0.split_at_checked(length).ok_or(TicketDefect::Malformed)?;
        self.0 = rest;
        let network = std::str::from_utf8(name).map_err(|_| TicketDefect::Malformed)?.to_owned();
        let mut peers = Vec::new();
        for _ in 0..self.count(MAX_PEERS)? {
            peers.push(self.peer()?);
        }
        if self.0.is_empty() { Ok(Ticket { secret, network, peers }) } else { Err(TicketDefect::Malformed) }
    }

    fn peer(&mut self) -> Result<Peer, TicketDefect> {
        let id = EndpointId::from_bytes(&self.array()?).map_err(|_| TicketDefect::Malformed)?;
        let mut addresses = Vec::new();
        for _ in 0..self.count(MAX_ADDRESSES)? {
            let ip = match self.array::<1>()?[0] {
                4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
                6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
                _ => return Err(TicketDefect::Malformed),
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(self.array()?)));
        }
        Ok((id, addresses))
    }
}
