//! What a database says when it fails, in words for the operator.

use std::path::Path;

use super::dialect::is_standby;
use super::pool::Doubt;
use crate::config::Secret;
use crate::store::StoreError;

/// Knows which database it is, and what must not be said of it.
#[derive(Clone)]
pub(super) struct Faults {
    /// What to call the database.
    name: String,
    /// Its URL, where it has one; may hold a password.
    url: Option<Secret>,
    doubt: Doubt,
}

impl Faults {
    pub(super) fn of_file(path: &Path) -> Self {
        Self {
            name: format!("the database {}", path.display()),
            url: None,
            doubt: Doubt::default(),
        }
    }

    pub(super) fn of_server(url: &Secret) -> Self {
        let name = "the PostgreSQL database".to_owned();
        Self { name, url: Some(url.clone()), doubt: Doubt::default() }
    }

    /// The outcome of a statement that fails only if the database does.
    pub(super) fn of<T>(&self, outcome: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        outcome.map_err(|error| self.explain(&error))
    }

    /// The outcome of a statement that fails, too, if what it adds is there already.
    pub(super) fn unless_taken<T>(
        &self,
        outcome: Result<T, sqlx::Error>,
        taken: impl FnOnce() -> String,
    ) -> Result<T, StoreError> {
        outcome.map_err(|error| match error.as_database_error() {
            Some(fault) if fault.is_unique_violation() => StoreError::Conflict(taken()),
            _ => self.explain(&error),
        })
    }

    /// What is known of the connections that gave rise to faults.
    pub(super) fn doubt(&self) -> &Doubt {
        &self.doubt
    }

    /// Other writers of this process take too long.
    pub(super) fn busy(&self) -> StoreError {
        StoreError::Unavailable(format!("{} is busy with other changes; try again", self.name))
    }

    /// A server that only repeats another.
    pub(super) fn standby(&self) -> StoreError {
        self.doubt.cast();
        let name = &self.name;
        StoreError::Unavailable(format!(
            "{name} is a standby, which may be behind: name the primary"
        ))
    }

    /// A database that lacks a part of its schema.
    pub(super) fn not_whole(&self, message: &str) -> StoreError {
        let (name, message) = (&self.name, self.redact(message));
        let remedy = "a part of its schema is missing: restore it from a backup";
        StoreError::Unavailable(format!("{name} is not whole ({message}), {remedy}"))
    }

    /// A file that does not hold what it should.
    pub(super) fn damaged(&self, found: &str) -> StoreError {
        let name = &self.name;
        StoreError::Unavailable(format!("{name} is damaged: restore it from a backup ({found})"))
    }

    /// A database that says nothing.
    pub(super) fn silence(&self) -> StoreError {
        self.doubt.cast();
        match self.doubt.met_a_standby() {
            true => self.standby(),
            false => StoreError::Unavailable(format!("{} does not answer", self.name)),
        }
    }

    /// What `error` means, and what to do about it where that is known.
    pub(super) fn explain(&self, error: &sqlx::Error) -> StoreError {
        let name = &self.name;
        StoreError::Unavailable(match error {
            sqlx::Error::PoolTimedOut => return self.silence(),
            error if is_standby(error) => return self.standby(),
            sqlx::Error::Database(fault) if fault.message().contains("no encryption") => {
                format!("{name} wants TLS: add sslmode=verify-full to its URL")
            }
            sqlx::Error::Database(fault) => match fault.code().as_deref().and_then(meaning) {
                Some(meaning) => {
                    // it may have been made a standby since it was connected to
                    if fault.code().as_deref() == Some(READ_ONLY) {
                        self.doubt.cast();
                    }
                    format!("{name} {meaning}")
                }
                None => format!("{name} reports: {}", self.redact(fault.message())),
            },
            sqlx::Error::Io(error) => match distrust(&error.to_string()) {
                Some(meaning) => format!("{name} {meaning}"),
                None => format!("{name} cannot be reached: {error}"),
            },
            sqlx::Error::Tls(error) => match distrust(&error.to_string()) {
                Some(meaning) => format!("{name} {meaning}"),
                None => format!("{name} cannot be reached by TLS: {error}"),
            },
            // a URL that cannot be read is never quoted: there is no telling where its password is
            sqlx::Error::Configuration(_) if self.url.is_some() => {
                format!("{name} cannot be reached: its URL is not a postgres:// URL")
            }
            other => format!("{name} failed: {}", self.redact(&other.to_string())),
        })
    }

    /// `text` without the URL or its password, should a driver ever quote them.
    fn redact(&self, text: &str) -> String {
        let Some(url) = self.url.as_ref().map(Secret::expose) else { return text.to_owned() };
        let text = text.replace(url, "[url]");
        let password = url
            .split_once("://")
            .and_then(|(_, rest)| rest.rsplit_once('@'))
            .and_then(|(credentials, _)| credentials.split_once(':'))
            .map(|(_, password)| password)
            .filter(|password| !password.is_empty());
        match password {
            Some(password) => text.replace(password, "[password]"),
            None => text,
        }
    }
}

/// PostgreSQL's word for what was made a standby, or forbids to write.
const READ_ONLY: &str = "25006";

/// Why a server's certificate or its lack of one ends it all, in words for the operator.
fn distrust(text: &str) -> Option<&'static str> {
    let known = [
        (
            "UnknownIssuer",
            "shows a certificate that no authority we trust vouches for: sslrootcert",
        ),
        ("BadSignature", "shows a certificate that no authority we trust vouches for: sslrootcert"),
        ("not valid for name", "shows a certificate for another name than its URL's"),
        ("expired", "shows a certificate that has expired"),
        ("does not support TLS", "speaks no TLS, which its URL's sslmode asks for"),
        ("CaUsedAsEndEntity", "shows the certificate of an authority as its own"),
        ("No such file", "cannot be asked: there is no file where its URL's sslrootcert says"),
    ];
    known.iter().find(|(word, _)| text.contains(word)).map(|(_, meaning)| *meaning)
}

/// Whether SQLite says that somebody else is at it.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|fault| fault.code());
    code.as_deref().and_then(sqlite_result) == Some(SQLITE_BUSY)
}

const SQLITE_BUSY: u32 = 5;

/// SQLite's result codes (sqlite.org/rescode.html) and PostgreSQL's SQLSTATEs (appendix A of its
/// manual) that an operator can do something about.
fn meaning(code: &str) -> Option<&'static str> {
    if let Some(result) = sqlite_result(code) {
        return match result {
            SQLITE_BUSY | 6 => Some("is locked by another program; try again"),
            8 => Some("cannot be written: the file, its directory or the disk is read-only"),
            10 => Some("cannot be read or written: the disk reports an error or is full"),
            11 => Some("is damaged: restore it from a backup"),
            13 => Some("cannot grow: the disk is full"),
            14 => Some("cannot be opened: check that the path exists and is ours"),
            26 => Some("is not an SQLite file"),
            _ => None,
        };
    }
    match code {
        READ_ONLY => Some("cannot be written: it is read-only"),
        "28000" | "28P01" => Some("refuses the user or password of its URL"),
        "3D000" => Some("does not exist on that server: create it first"),
        "53100" => Some("cannot grow: its disk is full"),
        "53300" => Some("has no connection left for us"),
        "55P03" | "57014" => Some("is locked by another program; try again"),
        "57P01" | "57P02" | "57P03" => Some("is stopping or starting; try again"),
        _ => None,
    }
}

/// The primary result code in SQLite's extended one; SQLSTATEs have five characters, these fewer.
fn sqlite_result(code: &str) -> Option<u32> {
    (code.len() < 5).then(|| code.parse::<u32>().ok()).flatten().map(|extended| extended & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_url_nor_password_survive_in_a_text() {
        let url = "postgres://usher:hunt:er2@db.lan/usher";
        let faults = Faults::of_server(&Secret::new(url.to_owned()));
        let text = faults.redact(&format!("cannot parse {url}: bad 'hunt:er2'"));
        assert_eq!(text, "cannot parse [url]: bad '[password]'");
    }

    #[test]
    fn an_unreadable_url_is_not_quoted() {
        let faults = Faults::of_server(&Secret::new("postgres://u:hunter2@[oops".to_owned()));
        let error = faults.explain(&sqlx::Error::Configuration("bad hunter2".into()));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn extended_codes_mean_what_their_primary_code_means() {
        assert_eq!(meaning("5"), meaning("261"), "BUSY and BUSY_RECOVERY");
        assert_eq!(meaning("8"), meaning("1032"), "READONLY and READONLY_DBMOVED");
        assert_ne!(meaning("53100"), None);
        assert_eq!(meaning("2067"), None, "a unique violation is not the operator's to mend");
    }
}
