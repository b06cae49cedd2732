//! IDENTIFY: which address is asking?

pub mod proxy_header;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The address that a request is counted for and logged with; Display is the plain address, which
/// fail2ban and its like can match.
///
/// It is the peer of the connection unless that one is to be believed about another, and this is
/// the one place that decides so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// The address of the peer. An IPv4 address that a dual-stack socket shows as
    /// `::ffff:192.0.2.1` is the IPv4 address that it is.
    pub fn of(peer: SocketAddr) -> Self {
        Self(peer.ip().to_canonical())
    }

    /// The client that `trusted` proxies speak for. Each proxy appends to `X-Forwarded-For` whom
    /// it has heard from, so its lines are read from the right, as long as the one who wrote an
    /// entry is trusted. What an untrusted one wrote, or what is no address, counts for nothing.
    pub fn behind<'a>(
        peer: SocketAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
        trusted: &[IpNet],
    ) -> Self {
        let mut client = Self::of(peer);
        let mut entries =
            forwarded_for.rev().flat_map(|line| line.rsplit(|byte| *byte == b',')).map(address_in);
        while client.is_in(trusted) {
            let Some(Some(next)) = entries.next() else { break };
            client = Self(next.to_canonical());
        }
        client
    }

    /// Whether it is in one of these networks.
    pub fn is_in(self, networks: &[IpNet]) -> bool {
        networks.iter().any(|network| network.contains(&self.0))
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

/// An entry of `X-Forwarded-For`: an address, with a port where a proxy likes to add it.
fn address_in(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    bare.parse().or_else(|_| with_port()).ok()
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

    fn behind(peer: &str, lines: &[&str]) -> String {
        let trusted =
            ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse::<IpNet>().unwrap()).to_vec();
        let lines = lines.iter().map(|line| line.as_bytes());
        ClientAddr::behind(peer.parse().unwrap(), lines, &trusted).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed_about_whom_it_speaks_for() {
        assert_eq!(behind("192.0.2.1:1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(behind("[2001:db8::1]:1", &["10.0.0.1"]), "2001:db8::1");
    }

    #[test]
    fn trusted_proxies_are_believed_from_the_right_up_to_the_first_stranger() {
        for (lines, client) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            (&["198.51.100.7, 10.1.1.1,10.2.2.2"], "198.51.100.7"),
            (&["203.0.113.9", "198.51.100.7, 10.1.1.1"], "198.51.100.7"),
            (&["198.51.100.7", "10.1.1.1"], "198.51.100.7"),
            (&["2001:db8::7, fd00::1"], "2001:db8::7"),
            (&["[2001:db8::7]:4711, [fd00::1]"], "2001:db8::7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["::ffff:198.51.100.7, ::ffff:10.1.1.1"], "198.51.100.7"),
            (&["10.3.3.3"], "10.3.3.3"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(behind("10.0.0.1:1", lines), client, "{lines:?}");
            assert_eq!(behind("[::ffff:10.0.0.1]:1", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_walk_at_the_proxy_that_passed_it_on() {
        for (lines, client) in [
            (&["198.51.100.7, unknown"][..], "10.0.0.1"),
            (&["198.51.100.7, "], "10.0.0.1"),
            (&["198.51.100.7, _hidden, 10.1.1.1"], "10.1.1.1"),
            (&["198.51.100.7 10.1.1.1"], "10.0.0.1"),
            (&["198.51.100.7\u{e9}"], "10.0.0.1"),
            (&["[198.51.100.7"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
        ] {
            assert_eq!(behind("10.0.0.1:1", lines), client, "{lines:?}");
        }
    }
}
