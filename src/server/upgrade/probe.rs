//! Tries a listening socket from both ends: a connection to it that this process accepts, and a request on it that this
//! process answers.
//!
//! Nobody else accepts meanwhile. Clients do connect, and are accepted on the way to the probe's own connection: what
//! this process must not keep yet goes back to the one that serves.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::server::acceptor::Entrance;

/// How long one socket may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Not a path of anybody's API. That nothing is found there is an answer.
const REQUEST: &[u8] =
    b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nuser-agent: tollgate-probe\r\nconnection: close\r\n\r\n";

/// Tries one socket; `stray` is given the connections that are not the probe's.
///
/// # Errors
/// What did not work.
pub fn probe(
    listener: &TcpListener,
    entrance: &Entrance,
    stray: &mut dyn FnMut(TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let address = reachable(listener.local_addr()?);
    let mut client = TcpStream::connect_timeout(&address, PATIENCE)?;
    let ours = client.local_addr()?;
    loop {
        let (accepted, peer) = accept(listener, until)?;
        if same(peer, ours) {
            entrance.admit(accepted)?;
            break;
        }
        stray(accepted)?;
    }
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    client.write_all(REQUEST)?;
    // Plain HTTP is answered; so is plain HTTP at a port for TLS. A port for PROXY headers hangs up, which is an answer too:
    // the connection was accepted here.
    let mut answer = [0; 9];
    match client.read(&mut answer) {
        Ok(0) => Ok(()),
        Ok(read) if answer.starts_with(b"HTTP/1.1 ".get(..read).unwrap_or_default()) => Ok(()),
        Ok(_) => Err(io::Error::other("the answer is not HTTP")),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

fn accept(listener: &TcpListener, until: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept() {
            Ok(accepted) => return Ok(accepted),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::Error::new(
                        ErrorKind::TimedOut,
                        "the probe's connection did not come",
                    ));
                }
                let left = Timespec::try_from(left).map_err(io::Error::other)?;
                poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&left))?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Where a socket can be reached from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        // Others as they are: an address of one link has a scope.
        _ => {}
    }
    address
}

fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}
