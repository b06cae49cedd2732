//! How far several instances have come, told as one of them would tell it.
//!
//! Clients show a bar for each layer, by its digest, and read the last line for the outcome. So a
//! layer is as complete as on the slowest instance, what all of them say is told once, and the
//! last line is not theirs.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Layers, and other things to say, that are remembered: far more than a model has.
const MOST: usize = 1024;

/// A line of an instance's report.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// So much of a layer is there; the rest of the line as it came.
    Layer(String, u64, Map<String, Value>),
    /// What it does now.
    Status(String),
    /// It is done.
    Success,
    /// It has failed.
    Failed(String),
    /// Nothing that anybody could read.
    Nothing,
}

impl Report {
    /// Reads a line.
    pub fn read(line: &[u8]) -> Self {
        let Ok(line) = serde_json::from_slice::<Map<String, Value>>(line) else {
            return Self::Nothing;
        };
        let text = |name: &str| line.get(name).and_then(Value::as_str).map(str::to_owned);
        if let Some(words) = text("error") {
            return Self::Failed(words);
        }
        match (text("status"), text("digest")) {
            (_, Some(digest)) => {
                let completed = line.get("completed").and_then(Value::as_u64).unwrap_or_default();
                Self::Layer(digest, completed, line)
            }
            (Some(status), None) if status == "success" => Self::Success,
            (Some(status), None) => Self::Status(status),
            (None, None) => Self::Nothing,
        }
    }
}

/// What was reported, by all of them.
pub struct Progress {
    at_work: Vec<bool>,
    layers: HashMap<String, Layer>,
    said: HashSet<String>,
}

#[derive(Default)]
struct Layer {
    /// How much of it each of them has.
    completed: Vec<u64>,
    told: Option<u64>,
}

impl Progress {
    /// So many instances, all at work.
    pub fn of(instances: usize) -> Self {
        let at_work = vec![true; instances];
        Self { at_work, layers: HashMap::new(), said: HashSet::new() }
    }

    /// What is to be told of this line of one of them, if it is anything new.
    pub fn hear(&mut self, number: usize, report: Report) -> Option<Bytes> {
        match report {
            Report::Status(status) => self.tell(status),
            Report::Layer(digest, completed, line) => self.layer(number, digest, completed, line),
            Report::Success | Report::Failed(_) | Report::Nothing => None,
        }
    }

    /// One of them is not waited for any more.
    pub fn over(&mut self, number: usize) {
        self.at_work.iter_mut().skip(number).take(1).for_each(|it| *it = false);
    }

    /// A status, unless it was told before.
    pub fn tell(&mut self, status: String) -> Option<Bytes> {
        if self.said.len() >= MOST || self.said.contains(&status) {
            return None;
        }
        let line = line(&json!({ "status": status }));
        self.said.insert(status);
        Some(line)
    }

    fn layer(
        &mut self,
        number: usize,
        digest: String,
        completed: u64,
        mut report: Map<String, Value>,
    ) -> Option<Bytes> {
        if self.layers.len() >= MOST && !self.layers.contains_key(&digest) {
            return None;
        }
        let layer = self.layers.entry(digest).or_default();
        layer.completed.resize(self.at_work.len(), 0);
        let own = layer.completed.get_mut(number)?;
        *own = completed.max(*own);
        let waited_for = layer.completed.iter().zip(&self.at_work).filter(|(_, at_work)| **at_work);
        let slowest = waited_for.map(|(completed, _)| *completed).min().unwrap_or(completed);
        if layer.told.is_some_and(|told| told >= slowest) {
            return None;
        }
        layer.told = Some(slowest);
        match slowest {
            // as Ollama writes it
            0 => _ = report.remove("completed"),
            more => _ = report.insert("completed".to_owned(), more.into()),
        }
        Some(line(&Value::Object(report)))
    }
}

/// A line of a report.
pub fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(digest: &str, completed: u64) -> Report {
        let line = json!({ "status": format!("pulling {digest}"), "digest": digest, "total": 100,
            "completed": completed });
        Report::read(line.to_string().as_bytes())
    }

    fn told(progress: &mut Progress, number: usize, report: Report) -> Option<Value> {
        let line = progress.hear(number, report)?;
        assert!(line.ends_with(b"\n"));
        Some(serde_json::from_slice(&line).unwrap())
    }

    #[test]
    fn a_line_is_read_for_what_it_means() {
        for (text, report) in [
            (r#"{"status":"success"}"#, Report::Success),
            (r#"{"status":"pulling manifest"}"#, Report::Status("pulling manifest".to_owned())),
            (r#"{"error":"no such model"}"#, Report::Failed("no such model".to_owned())),
            (r#"{"status":"x","error":"late"}"#, Report::Failed("late".to_owned())),
            ("{}", Report::Nothing),
            ("", Report::Nothing),
            ("[1]", Report::Nothing),
        ] {
            assert_eq!(Report::read(text.as_bytes()), report, "{text}");
        }
        let Report::Layer(digest, 0, _) = Report::read(br#"{"digest":"sha256:a","total":5}"#)
        else {
            panic!("a layer of which nothing is there yet");
        };
        assert_eq!(digest, "sha256:a");
    }

    #[test]
    fn what_all_say_is_told_once() {
        let mut progress = Progress::of(2);
        let manifest = || Report::Status("pulling manifest".to_owned());
        let line = told(&mut progress, 1, manifest());
        assert_eq!(line, Some(json!({ "status": "pulling manifest" })));
        assert_eq!(told(&mut progress, 0, manifest()), None);
    }

    #[test]
    fn a_layer_is_as_complete_as_on_the_slowest() {
        let mut progress = Progress::of(2);
        let first = told(&mut progress, 0, part("a", 40)).unwrap();
        assert_eq!(first, json!({ "status": "pulling a", "digest": "a", "total": 100 }));
        assert_eq!(told(&mut progress, 0, part("a", 90)), None, "the other one has nothing yet");
        assert_eq!(told(&mut progress, 1, part("a", 50)).unwrap()["completed"], 50);
        assert_eq!(told(&mut progress, 1, part("a", 95)).unwrap()["completed"], 90);
        progress.over(0);
        assert_eq!(told(&mut progress, 1, part("a", 99)).unwrap()["completed"], 99, "it failed");
        assert_eq!(told(&mut progress, 7, part("a", 100)), None, "nobody");
    }

    proptest! {
        #[test]
        fn a_bar_never_falls_and_never_runs_ahead_of_anybody(
            steps in proptest::collection::vec((0_usize..3, 0_u64..3, 0_u64..=100), 0..60),
        ) {
            let mut progress = Progress::of(3);
            let mut at_work = [true; 3];
            let mut best: HashMap<(u64, usize), u64> = HashMap::new();
            let mut last: HashMap<u64, u64> = HashMap::new();
            for (who, layer, completed) in steps {
                if completed == 100 && at_work.iter().filter(|it| **it).count() > 1 {
                    progress.over(who);
                    at_work[who] = false;
                    continue;
                }
                if !at_work[who] {
                    continue;
                }
                let own = best.entry((layer, who)).or_default();
                *own = completed.max(*own);
                let Some(line) = told(&mut progress, who, part(&layer.to_string(), completed))
                else { continue };
                let now = line["completed"].as_u64().unwrap_or_default();
                for other in (0..3).filter(|other| at_work[*other]) {
                    prop_assert!(now <= best.get(&(layer, other)).copied().unwrap_or_default());
                }
                if let Some(before) = last.insert(layer, now) {
                    prop_assert!(now > before, "told only what is new");
                }
            }
        }
    }
}
