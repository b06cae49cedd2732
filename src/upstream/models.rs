//! What instances have: their lists as they sent them, and the union over the healthy ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::model::{ModelKey, ModelName};

/// The lists of one instance.
#[derive(Default)]
pub struct Lists {
    /// What it answers to `/api/version`; OpenAI-compatible servers have none.
    pub version: Option<String>,
    /// `/api/tags`.
    pub installed: Vec<Entry>,
    /// `/api/ps`.
    pub resident: Vec<Entry>,
    /// `/v1/models`, of an OpenAI-compatible server; for Ollama it follows from `installed`.
    pub catalogue: Vec<Entry>,
    /// The keys of `installed` and `catalogue`.
    pub models: Arc<HashSet<ModelKey>>,
    /// The keys of `resident`.
    pub residents: Arc<HashSet<ModelKey>>,
    /// Bytes on disk of those in `installed`.
    pub sizes: Arc<HashMap<ModelKey, u64>>,
    /// Bytes in memory of those in `resident`.
    pub memory: Arc<HashMap<ModelKey, u64>>,
    /// The keys of those in `installed` that another server would answer for.
    pub remote: Arc<HashSet<ModelKey>>,
}

impl Lists {
    /// The same, with these in memory.
    pub fn with_resident(&self, resident: Vec<Entry>) -> Self {
        Self {
            version: self.version.clone(),
            installed: self.installed.clone(),
            catalogue: self.catalogue.clone(),
            models: Arc::clone(&self.models),
            residents: Arc::new(keys(&resident)),
            sizes: Arc::clone(&self.sizes),
            memory: Arc::new(sizes(&resident)),
            remote: Arc::clone(&self.remote),
            resident,
        }
    }
}

/// The models of a list.
pub(super) fn keys<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> HashSet<ModelKey> {
    entries.into_iter().map(|entry| entry.name.key().clone()).collect()
}

/// Their sizes, as far as the list tells.
pub(super) fn sizes(entries: &[Entry]) -> HashMap<ModelKey, u64> {
    let told = entries.iter().filter_map(|it| Some((it.name.key().clone(), it.bytes?)));
    told.collect()
}

/// One model in a list.
#[derive(Clone)]
pub struct Entry {
    /// Its name as the instance wrote it.
    pub name: ModelName,
    /// The list's element, byte for byte: fields that we do not know pass on.
    pub raw: Arc<RawValue>,
    /// Its size, if the list tells: in memory in `/api/ps`, else on disk.
    pub bytes: Option<u64>,
}

/// Reads an answer to `/api/tags` or `/api/ps`.
pub fn parse_ollama(body: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer {
        // Go writes an empty slice that was never made as null
        models: Option<Vec<Box<RawValue>>>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        model: String,
        #[serde(default)]
        name: String,
        // `ollama cp` gives a stub of a cloud model any name: this alone tells
        #[serde(default)]
        remote_host: String,
        #[serde(default)]
        size: Option<u64>,
        #[serde(default)]
        size_vram: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(body)?;
    answer
        .models
        .unwrap_or_default()
        .into_iter()
        .map(|raw| {
            let item: Item = serde_json::from_str(raw.get())?;
            let name = if item.model.is_empty() { item.name } else { item.model };
            // a model may be in memory in part on the card, in part beside it
            let bytes = item.size.or(item.size_vram).filter(|bytes| *bytes > 0);
            let entry = Entry { bytes, ..Entry::new(&name, raw) };
            Ok(if item.remote_host.is_empty() { entry } else { entry.marked_cloud() })
        })
        .collect()
}

/// Reads an answer to `/v1/models`.
pub fn parse_openai(body: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer {
        data: Option<Vec<Box<RawValue>>>,
    }
    #[derive(Deserialize)]
    struct Item {
        id: String,
    }
    let answer: Answer = serde_json::from_slice(body)?;
    answer
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|raw| {
            let item: Item = serde_json::from_str(raw.get())?;
            Ok(Entry::new(&item.id, raw))
        })
        .collect()
}

/// The entries that Ollama itself lists at `/v1/models` for these models (its
/// `openai.ToListCompletion`): the time of the last change, and the namespace as owner.
pub fn catalogue_of(installed: &[Entry]) -> Vec<Entry> {
    #[derive(Serialize)]
    struct Model<'a> {
        id: &'a str,
        object: &'static str,
        created: i64,
        owned_by: &'a str,
    }
    #[derive(Deserialize)]
    struct Item {
        name: String,
        modified_at: Option<Timestamp>,
    }
    installed
        .iter()
        .filter_map(|entry| {
            let item: Item = serde_json::from_str(entry.raw.get()).ok()?;
            let model = Model {
                id: &item.name,
                object: "model",
                created: item.modified_at.map_or(0, Timestamp::as_second),
                owned_by: entry.name.namespace(),
            };
            let raw = serde_json::value::to_raw_value(&model).ok()?;
            Some(Entry { name: entry.name.clone(), raw: Arc::from(raw), bytes: None })
        })
        .collect()
}

impl Entry {
    fn new(name: &str, raw: Box<RawValue>) -> Self {
        let name = ModelName::parse(name).unwrap_or_else(|_| ModelName::opaque(name));
        Self { name, raw: Arc::from(raw), bytes: None }
    }

    fn marked_cloud(self) -> Self {
        Self { name: self.name.marked_cloud(), ..self }
    }
}

/// Which list of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `/api/tags`.
    Installed,
    /// `/api/ps`.
    Resident,
}

/// The union of a list over the instances, as the body of Ollama's own answer: the first instance
/// that has a model speaks for it. Resident models are one entry for each instance that holds
/// them, because each has its own expiry and memory.
pub fn merged_ollama<'a>(
    lists: impl Iterator<Item = &'a Lists>,
    list: List,
    visible: &dyn Fn(&ModelName) -> bool,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a> {
        models: Vec<&'a RawValue>,
    }
    let mut seen = HashSet::new();
    let entries = lists.flat_map(|lists| match list {
        List::Installed => lists.installed.iter(),
        List::Resident => lists.resident.iter(),
    });
    let models = entries
        .filter(|entry| visible(&entry.name))
        .filter(|entry| list == List::Resident || seen.insert(entry.name.key()))
        .map(|entry| &*entry.raw)
        .collect();
    to_vec(&Answer { models })
}

/// The union of `/v1/models`, as the body of OpenAI's own answer; never null when empty.
pub fn merged_openai<'a>(
    lists: impl Iterator<Item = &'a Lists>,
    visible: &dyn Fn(&ModelName) -> bool,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a> {
        object: &'static str,
        data: Vec<&'a RawValue>,
    }
    let mut seen = HashSet::new();
    let data = lists
        .flat_map(|lists| lists.catalogue.iter())
        .filter(|entry| visible(&entry.name) && seen.insert(entry.name.key()))
        .map(|entry| &*entry.raw)
        .collect();
    to_vec(&Answer { object: "list", data })
}

/// The entry of `/v1/models` for one model.
pub fn find_openai<'a>(
    mut lists: impl Iterator<Item = &'a Lists>,
    model: &ModelKey,
) -> Option<Vec<u8>> {
    lists.find_map(|lists| {
        let entry = lists.catalogue.iter().find(|entry| entry.name.key() == model)?;
        Some(entry.raw.get().as_bytes().to_vec())
    })
}

fn to_vec(answer: &impl Serialize) -> Vec<u8> {
    // serialising borrowed raw values and strings into memory cannot fail
    serde_json::to_vec(answer).unwrap_or_default()
}
