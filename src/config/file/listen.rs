//! Where Usher listens: `listen`; which pages may call: `cors`; and what is beside it: `admin` and
//! `metrics`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::reader::{Item, Section};
use super::tree::Scalar;
use super::values;
use crate::config::{Listen, TlsFiles};

/// `listen`: at least one address, none twice, none in the clear by accident.
pub(super) fn listen(root: &Section<'_>) -> Vec<Listen> {
    let Some(list) = root.item("listen") else {
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        return vec![Listen { address, tls: None, balancers: None }];
    };
    let found = list.list(|item| Some((item.clone(), one(item)?)));
    if list.is_empty_list() {
        list.wrong("names no address: add one, or remove `listen` to have 127.0.0.1:8080");
    }
    for (index, (item, Listen { address, .. })) in found.iter().enumerate() {
        // port 0 is a new port each time
        if address.port() != 0 && found.iter().take(index).any(|(_, l)| l.address == *address) {
            item.wrong(format!("{address} is listed already: keep one"));
        }
    }
    found.into_iter().map(|(_, listen)| listen).collect()
}

fn one(item: &Item<'_>) -> Option<Listen> {
    item.section(|s| {
        let address = s.must("address", address);
        let plaintext = plaintext(s);
        let tls = s.item("tls").map(|tls| files(&tls));
        let balancers = s.list("proxy_protocol", |item| item.scalar(network));
        let address = address?;
        if plaintext.is_none() && tls.is_none() && is_public(address) {
            let text = format!(
                "{address} can be reached from other machines, and keys would travel unencrypted: \
                 add `tls: {{ cert: …, key: … }}`, listen on 127.0.0.1:{}, or add \
                 `plaintext: allow`",
                address.port()
            );
            s.wrong("address", text);
        }
        let balancers = (!balancers.is_empty()).then_some(balancers);
        Some(Listen { address, tls: tls.flatten(), balancers })
    })
}

/// Whether other machines can reach it.
fn is_public(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Whether plain HTTP is meant. A wrong word has its own message: one mistake, one line.
fn plaintext<'a>(s: &Section<'a>) -> Option<Item<'a>> {
    let plaintext = s.item("plaintext");
    plaintext.as_ref().map(|item| item.scalar(values::word(&[("allow", ())])));
    plaintext
}

fn files(tls: &Item<'_>) -> Option<TlsFiles> {
    let (cert, key) = tls.section(|s| {
        let path = || values::path(s.cx.base);
        (s.must("cert", path()), s.must("key", path()))
    });
    Some(TlsFiles { cert: cert?, key: key?, place: tls.place() })
}

/// `cors`: the origins whose pages may call.
pub(super) fn cors_origins(root: &Section<'_>) -> BTreeSet<String> {
    root.section("cors", |s| s.list("origins", |item| item.scalar(origin)).into_iter().collect())
}

/// `metrics`: an address, or `off`.
pub(super) fn metrics(root: &Section<'_>) -> Option<SocketAddr> {
    let usual = SocketAddr::from(([127, 0, 0, 1], 9090));
    match root.item("metrics") {
        Some(item) if item.as_scalar().is_some_and(|scalar| scalar.text == "off") => None,
        Some(item) => item.section(|s| s.get("address", address_or_off)).unwrap_or(Some(usual)),
        None => Some(usual),
    }
}

fn address_or_off(scalar: &Scalar) -> Result<Option<SocketAddr>, String> {
    match &*scalar.text {
        "off" => Ok(None),
        _ => address(scalar).map(Some).map_err(|text| format!("expected `off`, or: {text}")),
    }
}

/// `admin`: an address of its own, or none; and its names.
pub(super) fn admin(
    root: &Section<'_>,
    listen: &[Listen],
) -> (Option<SocketAddr>, BTreeSet<String>) {
    root.section("admin", |s| {
        let address = own_address(s, listen);
        (address, s.list("hosts", |item| item.scalar(host)).into_iter().collect())
    })
}

fn own_address(s: &Section<'_>, listen: &[Listen]) -> Option<SocketAddr> {
    let own = s.get("address", |scalar| match &*scalar.text {
        "same" => Ok(None),
        _ => address(scalar).map(Some).map_err(|text| format!("expected `same`, or: {text}")),
    });
    let plaintext = plaintext(s);
    let address = own.flatten()?;
    if plaintext.is_none() && is_public(address) {
        let port = address.port();
        let text = format!(
            "{address} can be reached from other machines, and keys would travel unencrypted: \
                 say 127.0.0.1:{port}, or add `plaintext: allow`"
        );
        s.wrong("address", text);
    }
    if address.port() != 0 && listen.iter().any(|listen| listen.address == address) {
        s.wrong("address", format!("{address} is in `listen` already: say `same`"));
    }
    Some(address)
}

/// A name, as it stands before the port in a URL.
fn host(scalar: &Scalar) -> Result<String, String> {
    let name = values::text(scalar)?.to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let ends = name.starts_with(['.', '-']) || name.ends_with(['.', '-']);
    if name.is_empty() || name.len() > 253 || ends || !name.bytes().all(plain) {
        let hint = "expected a name such as box.example, without scheme and port";
        return Err(format!("{hint}, found {}", scalar.shown()));
    }
    Ok(name)
}

/// `IP:PORT`.
fn address(scalar: &Scalar) -> Result<SocketAddr, String> {
    scalar.text.parse().map_err(|_| {
        let hint = "expected IP:PORT such as 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080";
        format!("{hint}, found {}", scalar.shown())
    })
}

/// A network such as `10.0.0.0/8`, or one address.
pub(super) fn network(scalar: &Scalar) -> Result<ipnet::IpNet, String> {
    let one = || scalar.text.parse::<IpAddr>().map(ipnet::IpNet::from);
    scalar.text.parse().or_else(|_| one()).map_err(|_| {
        format!("expected a network such as 10.0.0.0/8 or fd00::/8, found {}", scalar.shown())
    })
}

/// An origin as browsers send it (RFC 6454): scheme, host and perhaps a port, nothing more.
fn origin(scalar: &Scalar) -> Result<String, String> {
    let wrong = || {
        format!("expected an exact origin such as https://app.example, found {}", scalar.shown())
    };
    let (scheme, rest) = scalar.text.split_once("://").ok_or_else(wrong)?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]_".contains(c);
    let sane = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c))
        && !rest.is_empty()
        && rest.chars().all(plain);
    sane.then(|| scalar.text.clone()).ok_or_else(wrong)
}
