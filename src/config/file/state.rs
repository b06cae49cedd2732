//! What is kept, and where: `state_dir`, `database`, `redis`.

use std::path::{Path, PathBuf};

use super::reader::Section;
use super::secrets::secret;
use super::values;
use crate::config::Database;

/// `state_dir`.
pub(super) fn state_dir(root: &Section<'_>) -> PathBuf {
    let given = root.get("state_dir", values::path(root.cx.base));
    given.unwrap_or_else(|| PathBuf::from("/var/lib/usher"))
}

/// `database` or `database_file`; an URL may hold a password, so no message shows it.
pub(super) fn database(root: &Section<'_>, state_dir: &Path) -> Database {
    let given = secret(root, ("database", "database_file"), is_database);
    let file = |name: &str| Database::Sqlite(root.cx.base.join(name));
    match given {
        None => Database::Sqlite(state_dir.join("usher.db")),
        Some(url) => match url.expose().strip_prefix("sqlite") {
            Some("") => Database::Sqlite(state_dir.join("usher.db")),
            Some(path) => file(path.trim_start_matches(':')),
            None => Database::Postgres(url),
        },
    }
}

fn is_database(text: &str) -> Result<(), String> {
    let sqlite = text.strip_prefix("sqlite:");
    let postgres = ["postgres://", "postgresql://"].iter().find_map(|s| text.strip_prefix(s));
    if sqlite.is_some_and(|path| path.starts_with("//") || path.starts_with(':')) {
        return Err("a SQLite database is a file: write sqlite:PATH".to_owned());
    }
    match sqlite.or(postgres).map(str::is_empty).unwrap_or(text != "sqlite") {
        true => {
            let expected = "`sqlite`, sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME";
            Err(format!("expected {expected}"))
        }
        false => Ok(()),
    }
}

/// `redis` and `redis_file`: read for their mistakes; the URL may hold a password.
pub(super) fn redis(root: &Section<'_>) {
    const SCHEMES: [&str; 3] = ["redis://", "rediss://", "redis+unix://"];
    root.nullable("redis", |scalar| {
        let rest = SCHEMES.iter().find_map(|scheme| scalar.text.strip_prefix(scheme));
        let expected = "expected redis://HOST:PORT/0, rediss://… or redis+unix://PATH";
        rest.filter(|rest| !rest.is_empty()).map(drop).ok_or_else(|| expected.to_owned())
    });
    root.nullable("redis_file", values::path(root.cx.base));
}
