//! What a gateway tells Prometheus.

use std::net::SocketAddr;

use super::eventually;
use super::gateway::Gateway;
use super::http::Request;

/// The value of a series now; 0 if it is not there. The gateway needs
/// `metrics: { address: 127.0.0.1:0 }`.
pub fn value(gateway: &Gateway, series: &str) -> f64 {
    let text = Request::new(place(gateway), "GET", "/metrics").send().text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Where a gateway says that its metrics are.
fn place(gateway: &Gateway) -> SocketAddr {
    let mut place = None;
    eventually("metrics are announced", || {
        place = gateway.log().iter().find_map(|line| {
            line.split_once("metrics on http://")?.1.strip_suffix("/metrics")?.parse().ok()
        });
        place.is_some()
    });
    place.expect("found a moment ago")
}
