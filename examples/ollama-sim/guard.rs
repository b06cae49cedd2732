//! Ollama's two checks of where a request comes from: `Host` and `Origin`.

use std::net::IpAddr;

use http::Method;

use crate::reply::Reply;
use crate::routes::Call;

/// What the checks led to.
pub(crate) enum Verdict {
    Answered(Reply),
    /// Headers for the answer.
    Pass(Vec<(&'static str, String)>),
}

const ALLOWED_HEADERS: &str =
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta";

/// Refuses with an empty 403, answers preflights, or lets through.
pub(crate) fn check(call: &Call) -> Verdict {
    let host = call.header("host").unwrap_or_default();
    let origin = call.header("origin").unwrap_or_default();
    let same = [format!("http://{host}"), format!("https://{host}")].iter().any(|o| o == origin);
    let cross = !origin.is_empty() && !same;
    if cross && !origin_allowed(origin) {
        return forbidden(call);
    }
    let mut headers = Vec::new();
    if cross {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
        headers.push(("Vary", "Origin".to_owned()));
    }
    if cross && call.head.method == Method::OPTIONS {
        headers.push(("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD".to_owned()));
        headers.push(("Access-Control-Allow-Headers", ALLOWED_HEADERS.to_owned()));
        let reply = Reply::empty(204);
        let with = |reply: Reply, (name, value): (&str, String)| reply.with(name, &value);
        return Verdict::Answered(headers.into_iter().fold(reply, with));
    }
    if call.world.address.ip().is_loopback() && !host_allowed(host) {
        return forbidden(call);
    }
    Verdict::Pass(headers)
}

fn forbidden(call: &Call) -> Verdict {
    call.world.counters.add(|c| &c.forbidden, 1);
    Verdict::Answered(Reply::empty(403))
}

/// `OLLAMA_ORIGINS` as it is by default.
fn origin_allowed(origin: &str) -> bool {
    let local = |scheme: &str| {
        let rest = origin.strip_prefix(scheme)?;
        let host = rest.split_once(':').map_or(rest, |(host, _)| host);
        Some(matches!(host, "localhost" | "127.0.0.1" | "0.0.0.0"))
    };
    let app = ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];
    local("http://").or_else(|| local("https://")).unwrap_or(false)
        || app.iter().any(|scheme| origin.starts_with(scheme))
}

/// Local names and addresses; anything else may be a browser that was led here by DNS.
fn host_allowed(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    };
    if let Ok(address) = bare.trim_matches(['[', ']']).parse::<IpAddr>() {
        return match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_unspecified(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unspecified(),
        };
    }
    let name = bare.to_ascii_lowercase();
    let own = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    name.is_empty()
        || name == "localhost"
        || name == own.trim().to_ascii_lowercase()
        || [".localhost", ".local", ".internal"].iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_hosts_are_let_in() {
        for host in
            ["", "localhost", "LOCALHOST:1", "127.0.0.1:11434", "[::1]:1", "10.1.2.3", "a.local"]
        {
            assert!(host_allowed(host), "{host}");
        }
        for host in ["example.com", "8.8.8.8", "localhost.example.com", "evil.com:11434"] {
            assert!(!host_allowed(host), "{host}");
        }
    }

    #[test]
    fn only_local_origins_are_let_in() {
        for origin in ["http://localhost:3000", "https://127.0.0.1", "tauri://localhost"] {
            assert!(origin_allowed(origin), "{origin}");
        }
        for origin in ["null", "http://example.com", "http://localhost.example.com", "localhost"] {
            assert!(!origin_allowed(origin), "{origin}");
        }
    }
}
