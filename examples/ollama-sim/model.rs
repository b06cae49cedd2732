//! Installed models, and the sets of them that a command line describes.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::json::{self, Json};
use crate::name::Name;
use crate::text::digest;
use crate::units::size;

/// One installed model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: Name,
    /// 64 hex digits; names with one digest share one runner.
    pub(crate) digest: String,
    /// Bytes on disk.
    pub(crate) size: u64,
    /// Bytes on the card without any context.
    pub(crate) vram: u64,
    /// Bytes on the card for each token of context and slot.
    pub(crate) kv: u64,
    pub(crate) family: String,
    pub(crate) parameters: String,
    pub(crate) quantization: String,
    /// The longest context it was trained for.
    pub(crate) context: u64,
    /// The length of its embeddings.
    pub(crate) embedding: usize,
    pub(crate) capabilities: Vec<String>,
    /// Parallel requests, where it differs from the rest.
    pub(crate) slots: Option<u32>,
}

/// Families that Ollama serves one request at a time.
const SERIAL_FAMILIES: [&str; 6] =
    ["qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h", "mllama"];

impl Model {
    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }

    /// Its parallel slots when `usual` is the rule.
    pub(crate) fn lanes(&self, usual: u32) -> usize {
        let serial = !self.can("completion")
            || SERIAL_FAMILIES.iter().any(|family| self.family.starts_with(family));
        self.slots.unwrap_or(if serial { 1 } else { usual }) as usize
    }

    /// Bytes on the card with this much context in each slot.
    pub(crate) fn footprint(&self, context: u64, lanes: usize) -> u64 {
        let cells = context.saturating_mul(lanes as u64);
        self.vram.saturating_add(self.kv.saturating_mul(cells))
    }

    pub(crate) fn details(&self) -> Json {
        json::map! {
            "parent_model" => "",
            "format" => "gguf",
            "family" => self.family.as_str(),
            "families" => vec![self.family.as_str()],
            "parameter_size" => self.parameters.as_str(),
            "quantization_level" => self.quantization.as_str(),
            "context_length" => self.context,
            "embedding_length" => self.embedding,
        }
    }

    fn new(name: &str) -> Result<Self, String> {
        Name::parse(name).map(Self::plain).ok_or_else(|| format!("'{name}' is no model name"))
    }

    fn plain(name: Name) -> Self {
        Self {
            digest: digest(name.key().as_bytes()),
            name,
            size: 2 << 30,
            vram: 2 << 30,
            kv: 16 << 10,
            family: "llama".to_owned(),
            parameters: "3.2B".to_owned(),
            quantization: "Q4_K_M".to_owned(),
            context: 131_072,
            embedding: 768,
            capabilities: vec!["completion".to_owned(), "tools".to_owned()],
            slots: None,
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u64>().map_err(|_| format!("{key}: '{value}' is no number"));
        match key {
            "size" => self.size = size(value)?,
            "vram" => self.vram = size(value)?,
            "kv" => self.kv = size(value)?,
            "family" => self.family = value.to_owned(),
            "params" => self.parameters = value.to_owned(),
            "quant" => self.quantization = value.to_owned(),
            "digest" => self.digest = digest(value.as_bytes()),
            "ctx" => self.context = number()?,
            "embed" => self.embedding = usize::try_from(number()?).unwrap_or(usize::MAX),
            "caps" => self.capabilities = value.split('+').map(str::to_owned).collect(),
            "slots" => self.slots = Some(u32::try_from(number()?.max(1)).unwrap_or(u32::MAX)),
            other => return Err(format!("'{other}' is no property of a model")),
        }
        Ok(())
    }
}

/// What is installed now.
#[derive(Debug)]
pub(crate) struct Registry {
    models: RwLock<Vec<Arc<Model>>>,
}

/// The set that is there when the command line names none.
pub(crate) const DEFAULT_MODELS: &str = "\
llama3.2:latest=size:2GiB,vram:2GiB,family:llama,params:3.2B;\
qwen3:8b=size:5GiB,vram:5GiB,family:qwen3,params:8.2B,ctx:40960,caps:completion+tools+thinking;\
nomic-embed-text:latest=size:262MiB,vram:512MiB,family:nomic-bert,params:137M,quant:F16,ctx:2048,\
kv:0,caps:embedding";

impl Registry {
    /// From `NAME=key:value,…;NAME=…`, or from a JSON file with a list of objects.
    pub(crate) fn load(spec: &str) -> Result<Self, String> {
        let models = if std::path::Path::new(spec).extension().is_some_and(|e| e == "json") {
            let text = std::fs::read(spec).map_err(|e| format!("{spec}: {e}"))?;
            let list = json::parse(&text).map_err(|e| format!("{spec}: {}", e.message))?;
            list.list().iter().map(from_json).collect::<Result<_, _>>()?
        } else {
            let specs = spec.split(';').map(str::trim).filter(|one| !one.is_empty());
            specs.map(from_spec).collect::<Result<_, _>>()?
        };
        Ok(Self { models: RwLock::new(models) })
    }

    pub(crate) fn all(&self) -> Vec<Arc<Model>> {
        self.models.read().clone()
    }

    pub(crate) fn find(&self, name: &Name) -> Option<Arc<Model>> {
        let key = name.key();
        self.models.read().iter().find(|m| m.name.key() == key).cloned()
    }

    /// Adds a model or takes the place of the one with that name.
    pub(crate) fn put(&self, model: Model) {
        self.remove(&model.name);
        self.models.write().push(Arc::new(model));
    }

    /// A model of the usual make under that name, installed or not.
    pub(crate) fn nominal(&self, name: &Name) -> Model {
        self.find(name).map_or_else(|| Model::plain(name.clone()), |model| (*model).clone())
    }

    pub(crate) fn remove(&self, name: &Name) -> bool {
        let key = name.key();
        let mut models = self.models.write();
        let before = models.len();
        models.retain(|m| m.name.key() != key);
        models.len() < before
    }
}

fn from_spec(spec: &str) -> Result<Arc<Model>, String> {
    let (name, properties) = spec.split_once('=').unwrap_or((spec, ""));
    let mut model = Model::new(name.trim())?;
    for property in properties.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        let (key, value) =
            property.split_once(':').ok_or_else(|| format!("'{property}' has no value"))?;
        model.set(key, value)?;
    }
    Ok(Arc::new(model))
}

fn from_json(entry: &Json) -> Result<Arc<Model>, String> {
    let name = entry.string("name").map_err(|e| e.message)?;
    let mut model = Model::new(&name)?;
    for (key, value) in entry.entries().iter().filter(|(key, _)| key != "name") {
        let text = value.text().map_or_else(|| value.to_string(), str::to_owned);
        model.set(key, &text)?;
    }
    Ok(Arc::new(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_well_formed() {
        let models = Registry::load(DEFAULT_MODELS).unwrap().all();
        assert_eq!(models.len(), 3);
        assert_eq!(models[0].lanes(4), 4);
        assert_eq!(models[2].lanes(4), 1, "embedding models have one slot");
    }

    #[test]
    fn a_file_describes_models_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("models.json");
        let text = r#"[{"name": "me/big:70b", "size": "40GiB", "kv": 4096, "caps": "completion"}]"#;
        std::fs::write(&path, text).unwrap();
        let models = Registry::load(path.to_str().unwrap()).unwrap().all();
        assert_eq!(models[0].name.short(), "me/big:70b");
        assert_eq!((models[0].size, models[0].footprint(10, 2)), (40 << 30, (2 << 30) + 81_920));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(Registry::load("a=colour:red").unwrap_err().contains("colour"));
        assert!(Registry::load("a b").is_err());
        assert!(Registry::load("").unwrap().all().is_empty());
    }
}
