//! Canaries: what must never be written down is looked for wherever something is written.

use super::{before_one, question};
use crate::support::sim::Sim;

const PROMPT: &str = "canary-prompt-5f1c";
const CANARIES: [&str; 6] = [
    "canary-bearer-91ab",
    "canary-password-77de",
    "canary-cookie-0c3d",
    "canary-query-e2f4",
    "canary-path-18aa",
    "canary-imported-c0de",
];

#[test]
fn no_credential_and_no_prompt_is_ever_written_down_or_passed_on() {
    let (sim, builder) = before_one();
    // every level, for those who debug their gateway with real traffic, and of those who would tell
    // most
    let loud = "trace,pingora_core=trace,pingora_proxy=trace,h2=trace,hyper=trace,reqwest=trace,\
        sqlx=trace,redis=trace";
    let gateway = builder.user("anna", "free").env("RUST_LOG", loud).start();
    let [bearer, password, cookie, query, path, imported] = CANARIES;
    // `user:` and the password, in Base64
    let basic = base64(&format!("user:{password}"));
    let key = gateway.key("anna").to_owned();
    let mut body = question(true);
    body["prompt"] = PROMPT.into();
    let send = |target: &str, key: &str| {
        let request = gateway.post(target, &body).header("X-API-Key", key);
        request.header("Cookie", &format!("session={cookie}"))
    };
    let target = format!("/api/generate?key={query}");
    assert_eq!(send(&target, &key).header("Authorization", "Bearer x").send().status, 200);
    assert_eq!(send(&target, &key).chunked().send().status, 200);
    assert_eq!(send(&target, imported).send().status, 401);
    let wrong = gateway.post("/api/generate", &body);
    assert_eq!(wrong.clone().bearer(bearer).send().status, 401);
    assert_eq!(wrong.header("Authorization", &format!("Basic {basic}")).send().status, 401);
    assert_eq!(send(&format!("/api/{path}"), &key).send().status, 404);
    assert_eq!(send("/api/pull", &key).send().status, 403);
    let answer = super::say(
        &gateway,
        format!("GET /{path} HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-API-Key: {key}\r\n\r\n"),
    );
    assert_eq!(answer.status, 400);
    let malformed = format!("{{\"model\":\"llama3.2\",\"prompt\":\"{PROMPT}\",}}");
    assert_eq!(
        gateway.request("POST", "/api/generate").key(&key).body(malformed).send().status,
        400
    );
    assert_passed_on(&sim, &key, &basic);
    let log = gateway.stop().join("\n");
    assert!(log.len() > 1000, "the log is there");
    for secret in CANARIES.iter().chain([&PROMPT, &key.as_str(), &basic.as_str()]) {
        let at = log.lines().find(|line| line.contains(secret));
        assert_eq!(at, None, "{secret} is in the log");
    }
}

fn assert_passed_on(sim: &Sim, key: &str, basic: &str) {
    let requests = sim.requests();
    assert!(requests.iter().any(|it| it["body_head"].to_string().contains(PROMPT)));
    for request in requests {
        let text = request.to_string();
        for secret in CANARIES.iter().chain([&key, &basic]) {
            assert!(!text.contains(secret), "{secret} reached the instance: {text}");
        }
        let headers = [&request["headers"], &request["target"]].map(ToString::to_string);
        assert!(headers.iter().all(|text| !text.contains(PROMPT)));
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
