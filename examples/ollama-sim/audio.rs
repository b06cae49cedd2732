//! `/v1/audio/transcriptions`: a multipart form.

use std::collections::BTreeMap;
use std::sync::Arc;

use memchr::memmem;

use crate::engine::{Job, Kind};
use crate::json::map;
use crate::native::joined;
use crate::prompt;
use crate::refusal::Refusal;
use crate::reply::{Reply, collect};
use crate::routes::Call;
use crate::text::digest;

/// What Ollama takes in memory.
const MOST: usize = 25 << 20;

pub(crate) async fn transcribe(call: &Arc<Call>) -> Result<Reply, Refusal> {
    if call.body.length > MOST {
        return Err(Refusal::bad("http: request body too large"));
    }
    let form = form(call)?;
    let text = |name: &str| {
        form.get(name).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
    };
    let file = form.get("file").ok_or_else(|| Refusal::bad("file is required"))?;
    let name = text("model");
    if name.is_empty() {
        return Err(Refusal::bad("model is required"));
    }
    let found = prompt::model(call, &name, "transcription")?;
    let rendered = format!("<|audio|>{}<|end|>\n{}", digest(file), text("prompt"));
    let job = Job {
        want: prompt::want_plain(call, prompt::planned(&call.world, &found))?,
        prompt: rendered.into_bytes(),
        limit: None,
        think: false,
        tool: None,
        shift: true,
    };
    let (pieces, _) = collect(prompt::start(call, found, job).await?).await;
    let transcript = joined(&pieces, Kind::Content);
    Ok(match text("response_format").as_str() {
        "text" => Reply::new(200, "text/plain; charset=utf-8", transcript),
        _ => Reply::wrapped(&map! {"text" => transcript}),
    })
}

/// The fields of the form, by name.
fn form(call: &Call) -> Result<BTreeMap<String, Vec<u8>>, Refusal> {
    let kind = call.header("content-type").unwrap_or_default();
    if !kind.starts_with("multipart/form-data") {
        return Err(Refusal::bad("request Content-Type isn't multipart/form-data"));
    }
    let boundary = kind
        .split(';')
        .find_map(|part| part.trim().strip_prefix("boundary="))
        .map(|text| text.trim_matches('"'))
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Refusal::bad("no multipart boundary param in Content-Type"))?;
    Ok(parts(&call.body.bytes, boundary))
}

fn parts(body: &[u8], boundary: &str) -> BTreeMap<String, Vec<u8>> {
    let mark = format!("--{boundary}");
    let starts: Vec<usize> = memmem::find_iter(body, mark.as_bytes()).collect();
    let part = |pair: &[usize]| {
        let [start, end] = pair else { return None };
        let part = body.get(start + mark.len() + 2..end.saturating_sub(2))?;
        let gap = memmem::find(part, b"\r\n\r\n")?;
        let (head, value) = part.split_at_checked(gap)?;
        let head = String::from_utf8_lossy(head);
        let name = head.split("name=\"").nth(1)?.split('"').next()?.to_owned();
        Some((name, value.get(4..)?.to_vec()))
    };
    starts.windows(2).filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_taken_apart() {
        let body = b"--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n\
            --x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\x00\r\n\xff\r\n--x--\r\n";
        let form = parts(body, "x");
        assert_eq!(form["model"], b"m");
        assert_eq!(form["file"], b"\x00\r\n\xff");
    }
}
