//! Secrets: a value, or the file that holds it, never both.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::lines;
use super::reader::{Item, Section};
use super::tree::Style;
use super::values;
use crate::config::Secret;

/// No password or key is longer; a larger file is a wrong path.
const LONGEST: u64 = 64 << 10;

/// The secret under `key`, or in the file that `file_key` names; `check` says what is wrong with
/// it without repeating it.
pub(super) fn secret(
    section: &Section<'_>,
    (key, file_key): (&'static str, &'static str),
    check: impl Fn(&str) -> Result<(), String>,
) -> Option<Secret> {
    let present = |item: &Item<'_>| !item.is_null();
    let value = section.item(key).filter(present);
    let file = section.item(file_key).filter(present);
    if let (Some(_), Some(file)) = (&value, &file) {
        file.wrong(format!("`{key}` is given too: keep one of the two"));
        return None;
    }
    let inline = value.is_some();
    let (item, text) = match (value, file) {
        // never through `values::text`, whose messages show what they found
        (Some(item), _) => {
            let text = item.scalar(|scalar| Ok(Zeroizing::new(scalar.text.clone())))?;
            (item, text)
        }
        (None, Some(item)) => {
            let text = from_file(&item)?;
            (item, text)
        }
        (None, None) => return None,
    };
    match check(&text) {
        Ok(()) => {
            if inline && !lines::may_be_shown(&text) {
                warn_if_readable(&item);
            }
            Some(Secret::new(text.to_string()))
        }
        Err(wrong) => {
            item.wrong(wrong);
            None
        }
    }
}

/// Says so where a secret stands in a configuration that everybody can read.
pub(super) fn warn_if_readable(item: &Item<'_>) {
    let filled = item.as_scalar().is_some_and(|scalar| scalar.style == Style::Filled);
    let file = item.cx.file;
    let mode = || std::fs::metadata(file).ok().map(|metadata| metadata.permissions().mode());
    if !filled && mode().is_some_and(|mode| mode & 0o004 != 0) {
        let file = file.display();
        item.warn(format!("is a secret, and {file} can be read by everybody: chmod 600 {file}"));
    }
}

/// A header value: what may stand behind `Authorization: Bearer`.
pub(super) fn visible_ascii(text: &str) -> Result<(), String> {
    match text.bytes().all(|b| b.is_ascii_graphic()) && !text.is_empty() {
        true => Ok(()),
        false => Err("expected one line of visible ASCII characters without spaces".to_owned()),
    }
}

/// The text of the file that is named here.
pub(super) fn from_file(item: &Item<'_>) -> Option<Zeroizing<String>> {
    let path = item.scalar(values::path(item.cx.base))?;
    let (text, mode) =
        read(&path).map_err(|text| item.wrong(format!("{}: {text}", path.display()))).ok()?;
    if mode & 0o007 != 0 {
        let path = path.display();
        item.warn(format!("{path} is open to every user of this machine: chmod 600 {path}"));
    }
    Some(text)
}

/// The file's text without the line end that editors add, and its mode.
fn read(path: &Path) -> Result<(Zeroizing<String>, u32), String> {
    let calm = |e: std::io::Error| format!("cannot be read: {e}");
    // asked before it is opened: opening a pipe would wait for its writer
    let metadata = std::fs::metadata(path).map_err(calm)?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    if metadata.len() > LONGEST {
        return Err("is larger than any secret: is it the right file?".to_owned());
    }
    let mut text = Zeroizing::new(String::new());
    File::open(path).and_then(|f| f.take(LONGEST).read_to_string(&mut text)).map_err(calm)?;
    let trimmed = text.trim_end_matches(['\r', '\n']);
    if trimmed.is_empty() {
        return Err("is empty: write the secret into it".to_owned());
    }
    Ok((Zeroizing::new(trimmed.to_owned()), metadata.permissions().mode()))
}
