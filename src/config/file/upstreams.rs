//! The instances: `upstreams`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::reader::{Item, Section};
use super::secrets::{secret, visible_ascii};
use super::tree::Scalar;
use super::values;
use crate::config::{EVERY_INSTANCE, Upstream, UpstreamKind};

const EXAMPLE: &str = "{ name: gpu0, url: http://127.0.0.1:11434 }";

/// `upstreams`: at least one, no name and no address twice.
pub(super) fn upstreams(root: &Section<'_>) -> Vec<Upstream> {
    let Some(list) = root.item("upstreams").filter(|item| !item.is_null()) else {
        root.wrong("upstreams", format!("is missing: name an instance, such as {EXAMPLE}"));
        return Vec::new();
    };
    let found: Vec<(Item<'_>, Upstream)> = list.list(|item| {
        let upstream = item.section(one)?;
        Some((item.clone(), upstream))
    });
    if list.is_empty_list() {
        list.wrong(format!("is empty: name an instance, such as {EXAMPLE}"));
    }
    for (index, (item, this)) in found.iter().enumerate() {
        let mut before = found.iter().take(index).map(|(_, upstream)| upstream);
        if before.clone().any(|other| other.name == this.name) {
            item.wrong(format!("the name `{}` is taken: give each instance its own", this.name));
        }
        let same = |other: &&Upstream| (&other.host, other.port) == (&this.host, this.port);
        if let Some(other) = before.find(same) {
            let text = "has that address too: its slots would count twice: keep one";
            item.wrong(format!("`{}` {text}", other.name));
        }
    }
    found.into_iter().map(|(_, upstream)| upstream).collect()
}

fn one(s: &Section<'_>) -> Option<Upstream> {
    let name = s.must("name", name);
    let address = s.must("url", url);
    let kind = values::word(&[("ollama", UpstreamKind::Ollama), ("openai", UpstreamKind::OpenAi)]);
    let kind = s.get("kind", kind).unwrap_or(UpstreamKind::Ollama);
    let slots = s.get("slots", values::whole(1..=10_000)).unwrap_or(1);
    let model_slots = model_slots(s);
    let api_key = secret(s, ("api_key", "api_key_file"), visible_ascii);
    let gpu = s.get("gpu", values::whole::<u32>(0..=1_023));
    let Address { tls, host, port } = address?;
    let place = s.place("url");
    Some(Upstream { name: name?, place, kind, tls, host, port, slots, model_slots, gpu, api_key })
}

fn name(scalar: &Scalar) -> Result<String, String> {
    let name = values::text(scalar)?;
    match (&*name, values::is_name(&name)) {
        (EVERY_INSTANCE, _) => Err("`all` means every instance: choose another name".to_owned()),
        (_, false) => Err(format!("{}, found {}", values::NAME, scalar.shown())),
        (_, true) => Ok(name),
    }
}

fn model_slots(s: &Section<'_>) -> BTreeMap<String, u32> {
    let Some(item) = s.item("model_slots") else { return BTreeMap::new() };
    let read = item.entries(|model, item| {
        let sane = |b: u8| b.is_ascii_alphanumeric() || b"._-/:".contains(&b);
        if model.is_empty() || model.len() > 256 || !model.bytes().all(sane) {
            item.wrong("expected a model's name such as 'qwen3:8b'");
        }
        Some((model.to_owned(), item.scalar(values::whole(1..=10_000))?))
    });
    read.into_iter().collect()
}

#[derive(Debug)]
struct Address {
    tls: bool,
    host: String,
    port: u16,
}

/// `http://HOST[:PORT]` or `https://HOST[:PORT]`: Usher knows the paths itself.
fn url(scalar: &Scalar) -> Result<Address, String> {
    const EXPECTED: &str = "expected http://HOST:PORT or https://HOST:PORT";
    let text = &*scalar.text;
    if text.contains('@') {
        return Err("has a user or password: remove it, and use `api_key` or `api_key_file`".into());
    }
    let shown = || format!("{EXPECTED}, found {}", scalar.shown());
    let (scheme, rest) = text.split_once("://").ok_or_else(shown)?;
    let (tls, standard) = match scheme {
        "http" => (false, 80),
        "https" => (true, 443),
        _ => return Err(shown()),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if let Some((authority, _)) = authority.split_once(['/', '?', '#']) {
        let remedy = format!("write {scheme}://{authority}");
        return Err(format!("has more than a host and a port; Usher adds the path: {remedy}"));
    }
    let host_and_port = match authority.rsplit_once(':') {
        // the last colon of `[::1]` is inside
        Some((host, digits)) if !digits.ends_with(']') => port(digits).map(|port| (host, port)),
        _ => Some((authority, standard)),
    };
    let (host, port) = host_and_port
        .ok_or_else(|| format!("expected a port from 1 to 65535, found {}", scalar.shown()))?;
    let host = host.to_ascii_lowercase();
    if !is_host(&host)? {
        return Err(shown());
    }
    Ok(Address { tls, host: host.trim_matches(['[', ']']).to_owned(), port })
}

fn port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port > 0)
}

/// Whether this is a host at all.
///
/// # Errors
/// Says why an address is never an instance. Link-local addresses are where clouds keep their
/// metadata and its credentials: a gateway must not be a way to them.
fn is_host(host: &str) -> Result<bool, String> {
    if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let Ok(v6) = v6.parse::<Ipv6Addr>() else { return Ok(false) };
        return refuse_ip(IpAddr::V6(v6)).map(|()| true);
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return refuse_ip(ip).map(|()| ip.is_ipv4());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // resolvers take `0xa9fea9fe` and `169.16689662` for IPv4 addresses; so does WHATWG's URL
    // standard, by the last label
    let last = host.rsplit('.').next().unwrap_or(host);
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    Ok(host.len() <= 253 && host.split('.').all(label) && !numeric)
}

fn refuse_ip(ip: IpAddr) -> Result<(), String> {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == METADATA,
    };
    if ip.is_unspecified() {
        return Err(format!("{ip} is no address to connect to: write 127.0.0.1"));
    }
    if link_local || ip.is_multicast() {
        return Err(format!("{ip} is link-local, metadata or multicast, never an instance"));
    }
    Ok(())
}

/// The metadata service of a cloud that is not link-local in IPv6.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// `manage.default`: an instance that exists, or all of them.
pub(super) fn manage_default(root: &Section<'_>, upstreams: &[Upstream]) -> Option<String> {
    let names: Vec<&str> = upstreams.iter().map(|upstream| &*upstream.name).collect();
    root.section("manage", |s| {
        s.nullable("default", |scalar| match &*scalar.text {
            EVERY_INSTANCE => Ok(EVERY_INSTANCE.to_owned()),
            _ => values::known("instance", &names)(scalar),
        })
    })
}
