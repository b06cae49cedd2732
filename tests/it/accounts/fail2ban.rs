//! The security log as fail2ban reads it.

use std::path::Path;

use super::*;

/// The lines that the filter of this repository matches, by the real program.
fn matched(log: &Path) -> usize {
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/fail2ban/usher.conf");
    let output = Command::new("fail2ban-regex").arg(log).arg(filter).output();
    let output = output.unwrap_or_else(|e| panic!("fail2ban-regex: {e}: run `make setup`"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = said.lines().find(|line| line.starts_with("Lines: "));
    let summary = summary.unwrap_or_else(|| panic!("{said}"));
    let count = summary.split(", ").find_map(|part| part.strip_suffix(" matched"));
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn failures_are_matched_with_their_address_and_nothing_else_is() {
    let (_instance, gateway) = house(|it| it.config("auth: { trusted_proxies: [127.0.0.1] }"));
    let behind = |request: Request| request.header("X-Forwarded-For", "203.0.113.9");
    assert_eq!(behind(gateway.get("/api/tags")).key("usk_nonsense").send().status, 401);
    assert_eq!(behind(gateway.get("/api/tags")).bearer("eyJ.x.y").send().status, 401);
    for _ in 0..5 {
        assert_eq!(from(&gateway, "203.0.113.9", "wrong horse battery staple").status, 401);
    }
    assert_eq!(from(&gateway, "203.0.113.9", PASSWORD).status, 429);
    // what is no reason to ban anybody
    let good = token(&gateway);
    assert_eq!(me(&gateway, &good).status, 200);
    assert_eq!(gateway.get("/admin/upstreams").bearer(&good).send().status, 403);
    assert_eq!(gateway.request("POST", "/auth/logout").bearer(&good).send().status, 204);
    eventually("all of it is logged", || {
        let lines = gateway.security_lines();
        ["login_limited", "logout", "denied"].iter().all(|e| lines.iter().any(|l| l.contains(e)))
    });
    let log = gateway.home().path().join("log");
    std::fs::write(&log, gateway.log().join("\n") + "\n").unwrap();
    assert_eq!(matched(&log), 8, "{}", gateway.security_lines().join("\n"));
    let one = gateway.security_lines().into_iter().find(|line| line.contains("login_failure"));
    let one = one.unwrap();
    for (line, count) in [
        (one.clone(), 1),
        (format!("Nov 25 20:00:00 box usher[7]: {one}"), 1),
        (one.replace("203.0.113.9", "2001:db8::9"), 1),
        (one.replace("usher::security ", "usher::other "), 0),
        (format!("{} reason=\"x\"", one.replace("login_failure address", "x login_failure")), 0),
    ] {
        std::fs::write(&log, format!("{line}\n")).unwrap();
        assert_eq!(matched(&log), count, "{line}");
    }
}
