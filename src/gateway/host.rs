//! By which names `/admin` may be asked for in the clear.
//!
//! A page can have its own name lead to this machine once it was loaded (DNS rebinding): to the
//! browser, what it then asks here comes from the page's own site. The name is all that tells it
//! apart. No page has an address for a name, nor one of the names that the public DNS never has.
//! Over TLS the browser has checked the name itself, against the certificate.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::HOST;
use pingora::http::RequestHeader;

use super::ctx::Ctx;
use super::refusal::Refusal;

/// Names below these are never in the public DNS (RFC 6761, 6762, 8375; ICANN for `internal`).
const PRIVATE: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];
/// As much of a wrong name is repeated.
const SHOWN: usize = 64;

/// Refuses who asks for `/admin` under a name that could be anybody's.
pub(super) fn check(head: &RequestHeader, ctx: &Ctx) -> Result<(), Refusal> {
    // HTTP/1.0 has none, and no browser speaks it
    let Some(host) = head.headers.get(HOST).filter(|_| !ctx.encrypted) else { return Ok(()) };
    let host = host.to_str().unwrap_or_default();
    if is_ours(host, &ctx.config.admin_hosts) {
        return Ok(());
    }
    let shown: String = host.chars().take(SHOWN).collect();
    let shown = shown.escape_debug();
    let detail = format!(
        "Not administered under the name '{shown}': ask by address, over TLS, or list the name in \
         admin.hosts"
    );
    Err(Refusal::new(421, "foreign_host", detail))
}

/// Whether this is an address, a name that no page can have, or one that is listed.
fn is_ours(host: &str, listed: &BTreeSet<String>) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, port)) => return v6.parse::<Ipv6Addr>().is_ok() && is_port(port),
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let sane = !name.is_empty() && name.bytes().all(plain) && is_port(port);
    let private = |name: &str| {
        PRIVATE.iter().any(|top| name.strip_suffix(top).is_some_and(|rest| rest.ends_with('.')))
    };
    // one word alone is a name of the local network
    let known = name.parse::<Ipv4Addr>().is_ok() || !name.contains('.') || private(&name);
    sane && (known || listed.contains(&name))
}

/// Nothing, or a port behind its colon.
fn is_port(text: &str) -> bool {
    let digits = |digits: &str| digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    text.is_empty() || text.strip_prefix(':').is_some_and(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_that_no_page_has_are_ours() {
        let listed = BTreeSet::from(["box.example".to_owned()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8081",
            "10.0.0.5:80",
            "[::1]",
            "[fd00::5]:8081",
            "localhost",
            "LOCALHOST:8081",
            "localhost.",
            "admin.localhost",
            "gpubox",
            "gpubox:8081",
            "gpubox.local",
            "gpubox.internal:8081",
            "gpubox.home.arpa",
            "box.example",
            "Box.Example:8443",
            "box.example.",
        ] {
            assert!(is_ours(host, &listed), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8081",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evillocalhost.example",
            "notlocal.example",
            "x.box.example",
            "box.example.evil.example",
            "[evil.example]",
            "[::1].evil.example",
            "[::1]:x",
            "127.0.0.1:8081:evil.example",
            "localhost:80@evil.example",
            "localhost/#@evil.example",
            "localhost?x",
            "localhost\\evil",
            "127.1.evil",
            ".",
            "..",
            ":8081",
        ] {
            assert!(!is_ours(host, &listed), "{host}");
        }
    }
}
