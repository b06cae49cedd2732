//! IDENTIFY: which address is asking?

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address that a request is counted for and logged with; Display is the plain address, which
/// fail2ban and its like can match.
///
/// It is the peer of the connection, and this is the one place that decides so: whoever is to
/// be believed about an address other than the peer's has to be believed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// The address of the peer. An IPv4 address that a dual-stack socket shows as
    /// `::ffff:192.0.2.1` is the IPv4 address that it is.
    pub fn of(peer: SocketAddr) -> Self {
        Self(peer.ip().to_canonical())
    }

    /// The address itself.
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// The address that limits are kept by: an IPv6 client owns a whole /64 and could change its
    /// address at will within it.
    pub fn bucket(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
            }
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str) -> ClientAddr {
        ClientAddr::of(peer.parse().unwrap())
    }

    #[test]
    fn the_address_is_the_plain_one_without_port_scope_or_mapping() {
        for (peer, plain) in [
            ("192.0.2.1:5000", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:5000", "192.0.2.1"),
            ("[2001:db8::1]:5000", "2001:db8::1"),
            ("[fe80::1%3]:5000", "fe80::1"),
        ] {
            assert_eq!(of(peer).to_string(), plain);
        }
    }

    #[test]
    fn limits_are_kept_by_address_in_ipv4_and_by_64_bits_in_ipv6() {
        for (peer, bucket) in [
            ("192.0.2.1:1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
            ("[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::"),
            ("[2001:db8:1:2::]:1", "2001:db8:1:2::"),
            ("[2001:db8:1:3::]:1", "2001:db8:1:3::"),
        ] {
            assert_eq!(of(peer).bucket().to_string(), bucket);
        }
    }
}
