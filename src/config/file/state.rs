//! What is kept, and where: `state_dir`, `database`, `redis`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lines;
use super::reader::Section;
use super::secrets::secret;
use super::values;
use crate::config::{Database, NamedFile, Place, Redis, Secret};

/// A Redis in the same network answers within one of them; a request waits no longer for it.
const REDIS_TIMEOUT: Duration = Duration::from_millis(20);

const DATABASE: (&str, &str) = ("database", "database_file");
const REDIS: (&str, &str) = ("redis", "redis_file");

/// What names a file in a URL of PostgreSQL, in each of its spellings.
pub const URL_FILES: [&str; 7] =
    ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// `state_dir`.
pub(super) fn state_dir(root: &Section<'_>) -> PathBuf {
    let given = root.get("state_dir", values::path(root.cx.base));
    given.unwrap_or_else(|| PathBuf::from("/var/lib/usher"))
}

/// `database` or `database_file`; an URL may hold a password, so no message shows it.
pub(super) fn database(root: &Section<'_>, state_dir: &Path) -> Database {
    let given = secret(root, DATABASE, is_database);
    warn(root, DATABASE, given.as_ref());
    let file = |name: &str| Database::Sqlite(root.cx.base.join(name));
    match given {
        None => Database::Sqlite(state_dir.join("usher.db")),
        Some(url) => match url.expose().strip_prefix("sqlite") {
            Some("") => Database::Sqlite(state_dir.join("usher.db")),
            Some(path) => file(path.trim_start_matches(':')),
            None => Database::Postgres(Secret::new(with_whole_paths(url.expose(), root.cx.base))),
        },
    }
}

/// The same URL of PostgreSQL, the files that it names found as all others of the configuration.
fn with_whole_paths(url: &str, base: &Path) -> String {
    let Some((before, query)) = url.split_once('?') else { return url.to_owned() };
    let whole = |pair: &str| {
        let (key, file) = form_urlencoded::parse(pair.as_bytes()).next()?;
        // a certificate itself may stand there, too
        let relative = Path::new(&*file).is_relative() && !file.starts_with("-----BEGIN");
        if !relative || !URL_FILES.contains(&&*key) {
            return None;
        }
        let file = base.join(&*file);
        let file = form_urlencoded::byte_serialize(file.as_os_str().as_encoded_bytes());
        Some(format!("{key}={}", file.collect::<String>()))
    };
    let pairs = query.split('&').map(|pair| whole(pair).unwrap_or_else(|| pair.to_owned()));
    format!("{before}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// Where the database is named, or would be.
pub(super) fn database_place(root: &Section<'_>) -> Place {
    root.place(written(root, DATABASE))
}

fn is_database(text: &str) -> Result<(), String> {
    let sqlite = text.strip_prefix("sqlite:");
    let postgres = ["postgres://", "postgresql://"].iter().find_map(|s| text.strip_prefix(s));
    if sqlite.is_some_and(|path| path.starts_with("//") || path.starts_with(':')) {
        return Err("a SQLite database is a file: write sqlite:PATH".to_owned());
    }
    if let Some(rest) = postgres {
        lines::postgres(rest)?;
    }
    match sqlite.or(postgres).map(str::is_empty).unwrap_or(text != "sqlite") {
        true => {
            let expected = "`sqlite`, sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME";
            Err(format!("expected {expected}"))
        }
        false => Ok(()),
    }
}

/// `redis` and the keys that begin so; its URL may hold a password, so no message shows it.
pub(super) fn redis(root: &Section<'_>) -> Option<Redis> {
    let url = secret(root, REDIS, lines::redis);
    warn(root, REDIS, url.as_ref());
    let seal = secret(root, ("redis_secret", "redis_secret_file"), is_long);
    let ca = root.nullable("redis_ca", values::path(root.cx.base));
    let ca = ca.map(|path| NamedFile { path, place: root.place("redis_ca") });
    let timeout = root.get("redis_timeout", values::time).unwrap_or(REDIS_TIMEOUT);
    if let (Some(_), Some(item)) = (&ca, root.item("redis_ca"))
        && url.as_ref().is_some_and(|url| !url.expose().starts_with("rediss://"))
    {
        item.wrong("is for servers that speak TLS: write rediss:// in the URL");
    }
    let place = root.place(written(root, REDIS));
    Some(Redis { url: url?, place, secret: seal, ca, timeout })
}

/// Says where a line that others can listen to is written.
fn warn(root: &Section<'_>, keys: (&'static str, &'static str), url: Option<&Secret>) {
    let danger = url.and_then(|url| lines::danger(url.expose()));
    if let (Some(danger), Some(item)) = (danger, root.item(written(root, keys))) {
        item.warn(danger);
    }
}

/// Which of a value's two keys the file has: that of the value, unless it names a file alone.
fn written(root: &Section<'_>, (key, file_key): (&'static str, &'static str)) -> &'static str {
    let present = |key| root.item(key).is_some_and(|item| !item.is_null());
    if !present(key) && present(file_key) { file_key } else { key }
}

/// As long as a hash, so that nobody finds it by trying.
fn is_long(text: &str) -> Result<(), String> {
    match text.len() {
        32.. => Ok(()),
        _ => Err("is too short to seal with: give it 32 random characters or more".to_owned()),
    }
}
