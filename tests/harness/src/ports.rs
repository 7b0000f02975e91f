//! Loopback ports that nobody else gets.
//!
//! One rule: a port stays bound for as long as its guard lives, so neither a parallel test nor the source port of a
//! connection can take it. The socket never listens: connecting to it is refused, unless a server that binds with
//! `SO_REUSEPORT` (Envoy does) listens there too. For servers that do not there is [`Port::unshared`].
//! It does not know who uses the port.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A reserved port on 127.0.0.1; dropping it gives the port back.
#[derive(Debug)]
pub struct Port {
    addr: SocketAddr,
    _reservation: Socket,
}

impl Port {
    /// Reserves a free port. By itself it is also an address that refuses connections.
    pub fn reserve() -> Port {
        Port::bind(0).expect("the system has a free loopback port")
    }

    /// Reserves the given port, or says in a sentence that it is taken.
    pub fn take(number: u16) -> Result<Port, String> {
        // Envoy would gladly share the port with another Envoy; only a bind without SO_REUSEPORT tells.
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, number))
            .map(drop)
            .and_then(|()| Port::bind(number))
            .map_err(|error| format!("Port {number} on 127.0.0.1 is not free ({error})."))
    }

    /// A free port for a server that binds it alone, and that may go and come back.
    ///
    /// Its number is below those that connections get for themselves, and is held on another loopback address, where
    /// every harness on this machine looks first.
    pub fn unshared() -> Port {
        let start = std::process::id() as usize;
        (0..UNSHARED.len())
            .map(|step| UNSHARED.start + ((start * 31 + step) % UNSHARED.len()) as u16)
            .find_map(|number| {
                let reservation = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
                reservation.bind(&SocketAddr::from((WATCH, number)).into()).ok()?;
                let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
                // Others may use numbers without asking.
                std::net::TcpListener::bind(addr).ok()?;
                Some(Port { addr, _reservation: reservation })
            })
            .expect("the system has a free loopback port below those of connections")
    }

    /// 127.0.0.1 and the port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port alone.
    pub fn number(&self) -> u16 {
        self.addr.port()
    }

    fn bind(number: u16) -> std::io::Result<Port> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, number)).into())?;
        let addr = socket.local_addr()?.as_socket().expect("an IPv4 socket has an IPv4 address");
        Ok(Port { addr, _reservation: socket })
    }
}

/// Below the usual `ip_local_port_range`, and off the numbers of well-known services.
const UNSHARED: std::ops::Range<u16> = 20_000..32_000;
/// Where the numbers of unshared ports are held.
const WATCH: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
