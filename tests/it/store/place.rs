//! Where the store is tested, and the words for what it is asked.

use std::net::{IpAddr, Ipv4Addr};

use sqlx::{AnyConnection, Connection, Row};
use tempfile::TempDir;
use usher::auth::{Holder, KeyHash};
use usher::config::Database;
use usher::store::{Actor, Fingerprint, KeyLimits, KeyRecord, KeySpec, NewUser, Store};

use crate::support::postgres;

/// Where who presents a credential is.
pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A database of a test's own.
pub struct Place {
    pub database: Database,
    url: String,
    _dir: TempDir,
}

impl Place {
    pub async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/usher.db");
        let url = format!("sqlite://{}", path.display());
        Self { database: Database::Sqlite(path), url, _dir: dir }
    }

    pub async fn postgres() -> Self {
        let url = postgres::fresh_database().await;
        let dir = tempfile::tempdir().unwrap();
        Self { database: postgres::database(&url), url, _dir: dir }
    }

    pub async fn open(&self) -> Store {
        Store::open(&self.database).await.unwrap()
    }

    /// A connection behind the store's back.
    pub async fn connect(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.url).await.unwrap()
    }

    pub async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connect().await).await.unwrap()
    }

    /// The audit trail as lines.
    pub async fn audit(&self) -> Vec<String> {
        let query = "SELECT actor, address, action, target, detail FROM audit ORDER BY id";
        let rows = sqlx::query(query).fetch_all(&mut self.connect().await).await.unwrap();
        rows.iter()
            .map(|row| (0..5).map(|at| row.get::<String, _>(at)).collect::<Vec<_>>().join("|"))
            .collect()
    }
}

pub const CLI: &Actor<'static> = &Actor::CLI;

pub fn user(name: &str, tier: &str) -> NewUser {
    NewUser { username: name.to_owned(), tier: tier.to_owned(), ..NewUser::default() }
}

pub fn spec(user: &str, name: &str) -> KeySpec {
    KeySpec {
        user: user.to_owned(),
        name: name.to_owned(),
        tier: None,
        models: None,
        limits: KeyLimits::default(),
        delegating: false,
        expires_at: None,
    }
}

pub fn hash(of: &str) -> KeyHash {
    KeyHash::of(of.as_bytes())
}

pub fn holder(of: &str) -> Holder {
    Holder::Key(hash(of))
}

/// A key whose plaintext is `plain` and whose public id is the same.
pub async fn key(store: &Store, user: &str, plain: &str) -> KeyRecord {
    let print = Fingerprint { hash: hash(plain), public_id: Some(plain) };
    store.create_key(CLI, &spec(user, plain), &print).await.unwrap()
}
