//! A port for a server that has to be told its port.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A free port that nobody else is given as long as this lives, whether somebody listens on it or not.
///
/// The socket behind it is bound and never listens. A server that asks for exactly this port and allows addresses to be
/// used again (Redis does, and so does the standard library) gets it, as often as it likes; the kernel gives it to
/// nobody who asks for any free port.
pub struct Port {
    held: Socket,
}

impl Port {
    /// Takes a free one.
    pub fn free() -> Self {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        held.set_reuse_address(true).unwrap();
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self { held }
    }

    /// The address of a server on it.
    pub fn address(&self) -> SocketAddr {
        self.held.local_addr().unwrap().as_socket().unwrap()
    }

    /// Its number, for a command line.
    pub fn number(&self) -> String {
        self.address().port().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::until;
    use super::*;

    #[test]
    fn a_held_port_refuses_connections_until_somebody_listens_on_it_and_again_afterwards() {
        let port = Port::free();
        for _ in 0..3 {
            // A process that another test is just starting holds a copy of every socket for a moment.
            until("refused", || TcpStream::connect(port.address()).is_err());
            let listener = TcpListener::bind(port.address()).unwrap();
            let stream = TcpStream::connect(port.address()).unwrap();
            drop(listener.accept().unwrap());
            drop((listener, stream));
        }
    }
}
