//! The PROXY protocol: a load balancer says, before anything else, for whom it connects.
//!
//! Both versions, as the [specification] has them. Whoever may send such a header may claim any address, so a listener
//! either expects it of every connection, and of trusted proxies only, or of none: guessing would let clients in who
//! write it themselves.
//!
//! [specification]: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt

use std::net::IpAddr;

use bytes::{Buf, BytesMut};
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest header of version 1, its line end included (section 2.1).
const V1_MAX: usize = 107;

/// The longest header of version 2 that is taken: addresses of Unix sockets and some notes beside them. Longer ones
/// carry certificates and the like, which nobody here reads.
const V2_MAX: usize = 536;

/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How a header of version 1 begins.
const V1_PREFIX: &[u8; 6] = b"PROXY ";

/// First reservation: most clients send their first bytes along.
const BUFFER: usize = 4096;

/// What a complete header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it takes.
    pub length: usize,
    /// For whom the proxy connects.
    pub source: Source,
}

/// For whom a proxy connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// For the client at this address.
    Client(IpAddr),
    /// For itself (`LOCAL`, a health check of its own).
    Itself,
    /// For somebody without an IP address: version 1 `UNKNOWN`, version 2 `PROXY` with a Unix socket or without
    /// addresses. It is not the proxy, so whoever it is must not be trusted like it.
    Somebody,
}

/// Why there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What came is not a PROXY header, or too long.
    Malformed,
    /// The connection ended before it was complete.
    Closed,
}

/// Looks for a header at the start of these bytes. `None`: there is not enough of it yet.
///
/// # Errors
/// When no further byte can make a header of it.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    if begins_like(bytes, SIGNATURE) {
        return parse_v2(bytes);
    }
    if begins_like(bytes, V1_PREFIX) {
        return parse_v1(bytes);
    }
    Err(Fault::Malformed)
}

/// Reads a header from a stream, and gives what it says. What came behind it stays in the buffer.
///
/// # Errors
/// When something else comes.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<Header, Fault> {
    loop {
        if let Some(header) = parse(buffer)? {
            buffer.advance(header.length);
            return Ok(header);
        }
        buffer.reserve(BUFFER);
        match stream.read_buf(buffer).await {
            Ok(read) if read > 0 => {}
            _ => return Err(Fault::Closed),
        }
    }
}

/// Whether these bytes are this beginning, or a part of it.
fn begins_like(bytes: &[u8], beginning: &[u8]) -> bool {
    bytes.iter().zip(beginning).all(|(byte, expected)| byte == expected)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let seen = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return if bytes.len() >= V1_MAX {
            Err(Fault::Malformed)
        } else {
            Ok(None)
        };
    };
    let length = end + 1;
    let header = bytes.get(..length).unwrap_or_default();
    let header = v1::Header::try_from(header).map_err(|_| Fault::Malformed)?;
    let source = match header.addresses {
        v1::Addresses::Tcp4(addresses) => Source::client(addresses.source_address),
        v1::Addresses::Tcp6(addresses) => Source::client(addresses.source_address),
        v1::Addresses::Unknown => Source::Somebody,
    };
    Ok(Some(Header { length, source }))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let Some(&[high, low]) = bytes.get(14..16) else {
        return Ok(None);
    };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    if length > V2_MAX {
        return Err(Fault::Malformed);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let header = v2::Header::try_from(header).map_err(|_| Fault::Malformed)?;
    let source = match (header.command, header.protocol, &header.addresses) {
        (v2::Command::Local, ..) => Source::Itself,
        // A listener is TCP, so a proxy that speaks of datagrams speaks of something else.
        (_, v2::Protocol::Datagram, _) => return Err(Fault::Malformed),
        (_, _, v2::Addresses::IPv4(addresses)) => Source::client(addresses.source_address),
        (_, _, v2::Addresses::IPv6(addresses)) => Source::client(addresses.source_address),
        (_, _, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => Source::Somebody,
    };
    Ok(Some(Header { length, source }))
}

impl Source {
    /// An IPv4 client in IPv6 clothes is the IPv4 client.
    fn client(address: impl Into<IpAddr>) -> Self {
        Self::Client(address.into().to_canonical())
    }

    /// The address that requests come from, when the proxy's own is this.
    #[must_use]
    pub fn peer(self, proxy: Option<IpAddr>) -> Option<IpAddr> {
        match self {
            Self::Client(address) => Some(address),
            Self::Itself => proxy,
            Self::Somebody => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 8280\r\n";

    /// Version 2: this command, this family and transport, these address bytes.
    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        bytes.extend(addresses);
        bytes
    }

    fn v2_tcp4() -> Vec<u8> {
        v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0xc8, 0x22, 0x20, 0x58])
    }

    fn source(bytes: &[u8]) -> Option<String> {
        match whom(bytes) {
            Source::Client(address) => Some(address.to_string()),
            Source::Itself | Source::Somebody => None,
        }
    }

    fn whom(bytes: &[u8]) -> Source {
        parse(bytes).unwrap().expect("a complete header").source
    }

    #[test]
    fn both_versions_name_the_client() {
        assert_eq!(source(V1).as_deref(), Some("203.0.113.7"));
        assert_eq!(source(&v2_tcp4()).as_deref(), Some("203.0.113.7"));
        assert_eq!(
            source(b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 8280\r\n").as_deref(),
            Some("2001:db8::7")
        );
        let mut v6 = [0_u8; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        assert_eq!(source(&v2(1, 0x21, &v6)).as_deref(), Some("2001::"));
        assert_eq!(
            source(b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n").as_deref(),
            Some("203.0.113.7")
        );
    }

    #[test]
    fn only_a_proxy_that_speaks_for_itself_is_the_peer_itself() {
        let proxy = Some("10.0.0.1".parse().unwrap());
        for local in [
            v2(0, 0, &[]),
            // The addresses of LOCAL mean nothing.
            v2(0, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0, 1, 0, 2]),
        ] {
            assert_eq!(whom(&local), Source::Itself);
            assert_eq!(whom(&local).peer(proxy), proxy);
        }
        for somebody in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            v2(1, 0, &[]),
            v2(1, 0x31, &[0; 216]),
        ] {
            assert_eq!(whom(&somebody), Source::Somebody, "{somebody:?}");
            assert_eq!(whom(&somebody).peer(proxy), None, "{somebody:?}");
        }
    }

    #[test]
    fn what_follows_the_header_is_not_touched() {
        for header in [V1.to_vec(), v2_tcp4()] {
            let bytes = [header.as_slice(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&bytes).unwrap().unwrap().length, header.len());
        }
        // Notes (TLVs) belong to the header.
        let noted = v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0, 1, 0, 2, 0x04, 0, 2, 9, 9]);
        assert_eq!(parse(&noted).unwrap().unwrap().length, noted.len());
    }

    #[test]
    fn whatever_is_missing_is_waited_for() {
        for header in [V1.to_vec(), v2_tcp4(), b"PROXY UNKNOWN\r\n".to_vec()] {
            for length in 0..header.len() {
                assert_eq!(parse(&header[..length]), Ok(None), "{length} of {header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_said_to_be_none_at_once() {
        let mut other_version = v2_tcp4();
        other_version[12] = 0x11;
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"\x16\x03\x01",
            b"PROXY\t",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 51234\r\n",
            b"PROXY TCP4 203.0.113.777 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 1 99999\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\n",
            b"PROXY TCP5 203.0.113.7 10.0.0.1 1 2\r\n",
            b"PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n",
            &long,
            &other_version,
            &v2(1, 0x12, &[0; 12]),
            &v2(2, 0x11, &[0; 12]),
            &v2(1, 0x11, &[0; 4]),
            &v2(1, 0x11, &[0; 600]),
        ] {
            assert_eq!(parse(bytes), Err(Fault::Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_parsed_and_nothing_is_waited_for_for_ever(
            prefix in prop_oneof![Just(Vec::new()), Just(V1_PREFIX.to_vec()), Just(SIGNATURE.to_vec())],
            rest in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let bytes = [prefix, rest].concat();
            match parse(&bytes) {
                Ok(None) => prop_assert!(bytes.len() < V2_MAX),
                Ok(Some(header)) => prop_assert!(header.length <= bytes.len()),
                Err(_) => {}
            }
        }
    }
}
