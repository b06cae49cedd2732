//! The command line: what the stand-in is made of and how fast it runs.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::units::{duration, size};

/// A faithful stand-in for Ollama: no weights, a model of its time, misbehaviour on command.
#[derive(Clone, Debug, Parser)]
#[command(name = "ollama-sim", version, about)]
pub(crate) struct Args {
    /// Where clients speak to it.
    #[arg(long, default_value = "127.0.0.1:11434")]
    pub(crate) listen: SocketAddr,
    /// Where tests read counters and command misbehaviour.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) control: SocketAddr,
    /// Installed models: `NAME=size:2GiB,vram:2GiB,...;NAME=...`, or the path of a JSON file.
    #[arg(long)]
    pub(crate) models: Option<String>,
    /// Every modelled time is divided by this.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) speed: f64,
    /// What answers, ids and embeddings are derived from, beside the request.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The same request gets the same bytes, whatever the clock and the history.
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// Parallel requests a loaded model (`OLLAMA_NUM_PARALLEL`).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) slots: u32,
    /// Requests that may wait for a load (`OLLAMA_MAX_QUEUE`).
    #[arg(long, default_value_t = 512)]
    pub(crate) max_queue: u64,
    /// Models loaded at a time (`OLLAMA_MAX_LOADED_MODELS`).
    #[arg(long, default_value_t = 3)]
    pub(crate) max_loaded: usize,
    /// Memory of the one simulated card.
    #[arg(long, default_value = "24GiB", value_parser = size)]
    pub(crate) vram: u64,
    /// Default `num_ctx`; without it Ollama's rule by memory holds.
    #[arg(long)]
    pub(crate) context_length: Option<u64>,
    /// How long an idle model stays (`OLLAMA_KEEP_ALIVE`); negative is for ever.
    #[arg(long, default_value = "5m", allow_hyphen_values = true)]
    pub(crate) keep_alive: String,
    /// The part of a load that does not depend on size.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) load_base: Duration,
    /// Bytes a second from disk to card.
    #[arg(long, default_value = "2GiB", value_parser = size)]
    pub(crate) load_rate: u64,
    /// How long a load may stand still (`OLLAMA_LOAD_TIMEOUT`).
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub(crate) load_timeout: Duration,
    /// Prompt tokens a second.
    #[arg(long, default_value_t = 2000.0, value_parser = positive)]
    pub(crate) prefill_rate: f64,
    /// Output tokens a second of a lone request.
    #[arg(long, default_value_t = 50.0, value_parser = positive)]
    pub(crate) decode_rate: f64,
    /// 1: active requests share the decode rate; 0: each gets all of it.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) decode_sharing: f64,
    /// Prompt tokens between two chances to stop a prefill.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: u32,
    /// When a prefill notices that its client left.
    #[arg(long, value_enum, default_value_t = PrefillCancel::Batch)]
    pub(crate) prefill_cancel: PrefillCancel,
    /// Host memory for the prompts of other conversations; 0 keeps one prefix a slot.
    #[arg(long, default_value = "0", value_parser = size)]
    pub(crate) cache_ram: u64,
    /// How long memory takes to come back after an unload; `/api/ps` stalls meanwhile.
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub(crate) vram_recovery: Duration,
    /// Output tokens when the request sets no limit.
    #[arg(long, default_value_t = 32)]
    pub(crate) default_tokens: usize,
    /// Refuse cloud models (`OLLAMA_NO_CLOUD`).
    #[arg(long)]
    pub(crate) no_cloud: bool,
    /// Serve `/v1` alone, as vLLM would.
    #[arg(long)]
    pub(crate) openai_only: bool,
    /// With `--openai-only`: the bearer key that `/v1` requires.
    #[arg(long, requires = "openai_only")]
    pub(crate) api_key: Option<String>,
    /// What `/api/version` says.
    #[arg(long, default_value = "0.33.0")]
    pub(crate) ollama_version: String,
    /// Exit when standard input closes, so that no orphan outlives its test.
    #[arg(long)]
    pub(crate) exit_with_parent: bool,
}

/// When a prefill stops for a client that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrefillCancel {
    /// At the next batch (llama-server, since 0.30).
    Batch,
    /// Only at its end (the runners before).
    End,
}

impl Args {
    /// `num_ctx` of requests that set none.
    pub(crate) fn default_context(&self) -> u64 {
        const GIB: u64 = 1 << 30;
        self.context_length.unwrap_or(match self.vram / GIB {
            47.. => 262_144,
            23..47 => 32_768,
            _ => 4_096,
        })
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above zero is needed".to_owned()),
    }
}
