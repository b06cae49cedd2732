//! Misbehaviour on command: which requests it befalls, and what happens to them.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// One kind of misbehaviour. `after` counts HTTP chunks (or halves of a plain body) let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Fault {
    /// Answers at once with this status, body and headers.
    Status {
        status: u16,
        #[serde(default)]
        body: String,
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// Says nothing at all.
    Hang,
    /// Falls silent in the middle.
    HangAfter { after: usize },
    /// Resets the connection in the middle of a chunk.
    ResetAfter { after: usize },
    /// Closes the connection without ending the body.
    CutAfter { after: usize },
    /// Ends the body properly, but without its last message.
    EndAfter { after: usize },
    /// Reports an error inside a stream that began with 200.
    ErrorAfter { after: usize, message: String },
    /// Sends single bytes this far apart, in milliseconds of real time.
    Trickle { every_ms: u64 },
    /// Sends bytes that are no HTTP.
    Garbage,
    /// Closes the connection without a word.
    Close,
    /// Closes a connection on its second or later request; the first ones are served.
    CloseReused,
    /// Adds headers to an otherwise good answer.
    Headers { headers: Vec<(String, String)> },
}

/// A fault and the requests it is meant for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Any method if absent.
    #[serde(default)]
    method: Option<String>,
    /// An exact path, or a prefix that ends in `*`; any path if absent.
    #[serde(default)]
    path: Option<String>,
    /// Matching requests left alone first.
    #[serde(default)]
    skip: u64,
    /// Requests that it befalls; for ever if absent.
    #[serde(default)]
    times: Option<u64>,
    #[serde(flatten)]
    fault: Fault,
}

/// The rules in force; the first that matches befalls a request.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Mutex<Vec<Rule>>,
}

impl Faults {
    pub(crate) fn add(&self, rule: Rule) {
        self.rules.lock().push(rule);
    }

    pub(crate) fn clear(&self) {
        self.rules.lock().clear();
    }

    pub(crate) fn list(&self) -> Vec<Rule> {
        self.rules.lock().clone()
    }

    /// The fault for a request, used up by one. `reused`: not the first on its connection.
    pub(crate) fn draw(&self, method: &str, path: &str, reused: bool) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let position = rules.iter_mut().position(|rule| rule.applies(method, path, reused))?;
        let rule = rules.get_mut(position)?;
        let fault = rule.fault.clone();
        rule.times = rule.times.map(|times| times.saturating_sub(1));
        if rule.times == Some(0) {
            rules.remove(position);
        }
        Some(fault)
    }
}

impl Rule {
    fn applies(&mut self, method: &str, path: &str, reused: bool) -> bool {
        let method_fits = self.method.as_deref().is_none_or(|m| m.eq_ignore_ascii_case(method));
        let path_fits = self.path.as_deref().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == wanted,
        });
        let fits = method_fits && path_fits && (reused || self.fault != Fault::CloseReused);
        if fits && self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        fits && self.times != Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn rules_are_used_up_in_order() {
        let faults = Faults::default();
        faults.add(rule(r#"{"path":"/api/chat","skip":1,"times":1,"kind":"hang"}"#));
        faults.add(rule(r#"{"path":"/api/*","kind":"status","status":503}"#));
        assert!(matches!(faults.draw("POST", "/api/chat", false), Some(Fault::Status { .. })));
        assert_eq!(faults.draw("POST", "/api/chat", false), Some(Fault::Hang));
        assert!(matches!(faults.draw("POST", "/api/chat", false), Some(Fault::Status { .. })));
        assert_eq!(faults.draw("GET", "/", false), None);
    }

    #[test]
    fn fresh_connections_are_not_closed_as_reused() {
        let faults = Faults::default();
        faults.add(rule(r#"{"kind":"close_reused"}"#));
        assert_eq!(faults.draw("GET", "/", false), None);
        assert_eq!(faults.draw("GET", "/", true), Some(Fault::CloseReused));
    }
}
