//! What SQLite does in trouble: a full disk, a read-only file, a lock that stays.
//!
//! The trouble is made with SQLite's own pragmas, so that it is the same on every machine and for
//! root too.

use sqlx::{Connection, Row};
use tempfile::TempDir;

use super::*;
use crate::auth::IdentityStore;
use crate::store::NewUser;

async fn open() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Database::Sqlite(dir.path().join("usher.db"))).await.unwrap();
    (dir, store)
}

/// Says `statement` on every connection that the pool can have.
async fn say(store: &Store, statement: &'static str) {
    let mut held = Vec::new();
    for _ in 0..store.server.dialect.connections() {
        let mut connection = store.pool.acquire().await.unwrap();
        sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap();
        held.push(connection);
    }
}

async fn create(store: &Store, username: String) -> Result<(), StoreError> {
    let email = Some(format!("{}@example.org", "x".repeat(200)));
    let new = NewUser { username, tier: "free".to_owned(), email, ..NewUser::default() };
    store.create_user(&Actor::CLI, &new).await.map(drop)
}

fn unavailable(outcome: Result<(), StoreError>) -> String {
    match outcome {
        Err(StoreError::Unavailable(text)) => text,
        other => panic!("expected Unavailable, got {other:?}"),
    }
}

#[tokio::test]
async fn every_connection_is_durable_checks_references_and_waits() {
    let (_dir, store) = open().await;
    let mut held = Vec::new();
    for _ in 0..store.server.dialect.connections() {
        let mut connection = store.pool.acquire().await.unwrap();
        let mut values = Vec::new();
        for pragma in ["PRAGMA synchronous", "PRAGMA foreign_keys", "PRAGMA busy_timeout"] {
            let row = sqlx::raw_sql(pragma).fetch_one(&mut *connection).await.unwrap();
            values.push(row.get::<i64, _>(0));
        }
        assert_eq!(values, [2, 1, 2000], "synchronous FULL is 2");
        let mode = sqlx::raw_sql("PRAGMA journal_mode").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(mode.get::<String, _>(0), "wal");
        held.push(connection);
    }
}

#[tokio::test]
async fn a_full_disk_is_said_clearly_and_loses_nothing() {
    let (_dir, store) = open().await;
    create(&store, "before".to_owned()).await.unwrap();
    say(&store, "PRAGMA max_page_count = 40").await;
    let mut made: i64 = 1;
    let text = loop {
        match create(&store, format!("user{made}")).await {
            Ok(()) => made += 1,
            failed => break unavailable(failed),
        }
        assert!(made < 1000, "40 pages never filled");
    };
    assert!(text.ends_with("cannot grow: the disk is full"), "{text}");
    assert_eq!(store.list_users().await.unwrap().len() as i64, made);
    assert_eq!(store.revision().await.unwrap(), made, "a failed change raises nothing");
    say(&store, "PRAGMA max_page_count = 4000").await;
    create(&store, "after".to_owned()).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), made + 1);
}

#[tokio::test]
async fn a_read_only_database_is_said_clearly_and_still_read() {
    let (_dir, store) = open().await;
    create(&store, "bob".to_owned()).await.unwrap();
    say(&store, "PRAGMA query_only = ON").await;
    let text = unavailable(create(&store, "eve".to_owned()).await);
    assert!(text.contains("cannot be written"), "{text}");
    assert_eq!(store.list_users().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_lock_that_stays_fails_writers_clearly_and_readers_not_at_all() {
    let (_dir, store) = open().await;
    create(&store, "bob".to_owned()).await.unwrap();
    let mut other = store.server.connect().await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    say(&store, "PRAGMA busy_timeout = 20").await;
    let text = unavailable(create(&store, "eve".to_owned()).await);
    assert!(text.ends_with("is locked by another program; try again"), "{text}");
    assert_eq!(store.show_user("bob").await.unwrap().username, "bob");
    lock.rollback().await.unwrap();
    create(&store, "eve".to_owned()).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 2);
}

#[tokio::test]
async fn a_change_that_is_dropped_has_never_been() {
    let (_dir, store) = open().await;
    let mut change = store.change(&Actor::CLI).await.unwrap();
    change.record("user.create", "ghost", "").await.unwrap();
    drop(change);
    create(&store, "bob".to_owned()).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 1);
    let rows: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM audit").fetch_one(&store.pool).await.unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_database_of_a_later_version_is_left_alone() {
    let (dir, store) = open().await;
    let later = sqlx::raw_sql("INSERT INTO schema_steps (n) VALUES (99)");
    later.execute(&store.pool).await.unwrap();
    store.close().await;
    let again = Store::open(&Database::Sqlite(dir.path().join("usher.db"))).await;
    assert!(matches!(again.err(), Some(StoreError::Newer { found: 99, known: 3 })));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_clearly_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("usher.db");
    std::fs::write(&path, "a letter to my landlord, of some length. ".repeat(100)).unwrap();
    let text = unavailable(Store::open(&Database::Sqlite(path.clone())).await.map(drop));
    assert!(text.ends_with("is not an SQLite file"), "{text}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("a letter"));
}
