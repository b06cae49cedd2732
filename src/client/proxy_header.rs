//! The PROXY protocol's header, versions 1 and 2, with which a balancer says for whom it connects
//! (HAProxy's `proxy-protocol.txt`).

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// Bytes that a header may have. Version 1 has at most 107; version 2 has room for 64 KiB of
/// remarks, of which balancers use a few hundred.
pub const LONGEST: usize = 4096;
const LONGEST_V1: usize = 107;
/// Version 2's header without addresses and remarks, the length of which are its last two bytes.
const FIXED_V2: usize = 16;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The beginning of a header, perhaps.
    Incomplete,
    /// A header of this length, and the client if it names one: health checks do not.
    Whole(usize, Option<SocketAddr>),
    /// No header.
    Wrong,
}

/// Reads a header from the first bytes of a connection; what comes behind it is left alone.
pub fn read(bytes: &[u8]) -> Reading {
    let Some(length) = length(bytes) else { return Reading::Wrong };
    match length {
        Some(length) if length > LONGEST => Reading::Wrong,
        Some(length) => bytes.get(..length).map_or(Reading::Incomplete, |header| {
            client(header).map_or(Reading::Wrong, |client| Reading::Whole(length, client))
        }),
        None => Reading::Incomplete,
    }
}

/// The length that the header is going to have; `Some(None)` while that cannot be told, `None` if
/// it is none.
fn length(bytes: &[u8]) -> Option<Option<usize>> {
    if starts_alike(bytes, v2::PROTOCOL_PREFIX) {
        let rest = bytes.get(14..16).and_then(|field| field.try_into().ok());
        return Some(rest.map(|rest| FIXED_V2 + usize::from(u16::from_be_bytes(rest))));
    }
    if starts_alike(bytes, b"PROXY ") {
        let line = bytes.get(..bytes.len().min(LONGEST_V1)).unwrap_or_default();
        let end = memchr::memmem::find(line, b"\r\n").map(|end| end + 2);
        return (end.is_some() || bytes.len() < LONGEST_V1).then_some(end);
    }
    None
}

/// Whether `bytes` are the beginning of `mark`, or begin with it.
fn starts_alike(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.iter().zip(mark).all(|(byte, wanted)| byte == wanted)
}

/// The client that a whole header names; `None` if it is malformed.
fn client(header: &[u8]) -> Option<Option<SocketAddr>> {
    let tcp = |address: IpAddr, port| Some(Some(SocketAddr::new(address, port)));
    if header.starts_with(b"PROXY") {
        return match v1::Header::try_from(header).ok()?.addresses {
            v1::Addresses::Tcp4(from) => tcp(from.source_address.into(), from.source_port),
            v1::Addresses::Tcp6(from) => tcp(from.source_address.into(), from.source_port),
            v1::Addresses::Unknown => Some(None),
        };
    }
    let header = v2::Header::try_from(header).ok()?;
    match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, _, _) => Some(None),
        (_, v2::Protocol::Datagram, _) => None,
        (_, _, v2::Addresses::IPv4(from)) => tcp(from.source_address.into(), from.source_port),
        (_, _, v2::Addresses::IPv6(from)) => tcp(from.source_address.into(), from.source_port),
        (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn whole(header: &[u8], client: Option<&str>) {
        let client = client.map(|client| client.parse().unwrap());
        assert_eq!(read(header), Reading::Whole(header.len(), client), "{header:?}");
        for more in [&b"\x16\x03\x01"[..], b"GET / HTTP/1.1\r\n\r\n", b"PROXY UNKNOWN\r\n"] {
            let both = [header, more].concat();
            assert_eq!(read(&both), Reading::Whole(header.len(), client), "{both:?}");
        }
        for length in 0..header.len() {
            assert_eq!(read(&header[..length]), Reading::Incomplete, "{length} of {header:?}");
        }
    }

    #[test]
    fn version_1_names_the_client_in_a_line() {
        whole(b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n", Some("198.51.100.7:4711"));
        whole(b"PROXY TCP6 2001:db8::7 fd00::1 4711 443\r\n", Some("[2001:db8::7]:4711"));
        whole(b"PROXY UNKNOWN\r\n", None);
        whole(b"PROXY UNKNOWN whatever it says\r\n", None);
    }

    #[test]
    fn version_2_names_the_client_in_bytes() {
        let four = [198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187];
        whole(&v2(1, 0x11, &four), Some("198.51.100.7:4711"));
        let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x12, 0x67, 1, 187]];
        whole(&v2(1, 0x21, &six.concat()), Some("[2001:db8::7]:4711"));
        let with_remarks = [&four[..], &[4, 0, 3, 1, 2, 3]].concat();
        whole(&v2(1, 0x11, &with_remarks), Some("198.51.100.7:4711"));
        // a balancer's own health check
        whole(&v2(0, 0x00, &[]), None);
        whole(&v2(0, 0x11, &four), None);
    }

    #[test]
    fn what_is_no_header_is_wrong_at_once() {
        let remarks = [0; LONGEST];
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"PROXI",
            b"proxy TCP4",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 4711\r\n",
            b"PROXY TCP4 198.51.100.777 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4 2001:db8::7 fd00::1 4711 443\r\n",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 70000 443\r\n",
            &[b"PROXY ".as_slice(), &[b'x'; LONGEST_V1]].concat(),
            &v2(1, 0x12, &[198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187]),
            &v2(1, 0x11, &[198, 51, 100, 7]),
            &v2(2, 0x11, &[198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187]),
            &v2(0, 0x00, &remarks)[..16],
        ] {
            assert_eq!(read(bytes), Reading::Wrong, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall_over_or_claim_more_than_there_is(
            start in prop::sample::select(vec![&b""[..], b"PROXY TCP4 ", v2::PROTOCOL_PREFIX]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &bytes].concat();
            if let Reading::Whole(length, _) = read(&bytes) {
                prop_assert!(length <= bytes.len() && length <= LONGEST);
            }
        }
    }
}
