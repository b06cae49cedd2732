//! Errors in the shapes of the three dialects.

use crate::json::{Json, map};

/// Whose error shape a route speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Native,
    OpenAi,
    Anthropic,
}

/// A status and the text that Ollama gives with it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    pub(crate) fn no_model(name: &str) -> Self {
        Self::new(404, format!("model '{name}' not found"))
    }

    /// The pending queue is full. The two spaces are Ollama's own.
    pub(crate) fn busy() -> Self {
        Self::new(503, "server busy, please try again.  maximum pending requests exceeded")
    }

    pub(crate) fn body(&self, dialect: Dialect) -> Json {
        let message = self.message.as_str();
        match dialect {
            Dialect::Native => map! {"error" => message},
            Dialect::OpenAi => map! {"error" => map! {
                "message" => message,
                "type" => match self.status {
                    400 => "invalid_request_error",
                    404 => "not_found_error",
                    _ => "api_error",
                },
                "param" => Json::Null,
                "code" => Json::Null,
            }},
            Dialect::Anthropic => map! {
                "type" => "error",
                "error" => map! {"type" => anthropic_type(self.status), "message" => message},
                "request_id" => "req_sim",
            },
        }
    }
}

pub(crate) const fn anthropic_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}
