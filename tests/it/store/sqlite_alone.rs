//! Files, and whose they are.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use usher::config::Database;
use usher::store::Store;

use super::place::{CLI, Place, user};

#[tokio::test]
async fn its_files_are_its_owners_alone() {
    let place = Place::sqlite().await;
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let Database::Sqlite(path) = &place.database else { unreachable!() };
    let dir = path.parent().unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir), 0o700);
    let mut names = BTreeSet::new();
    for entry in dir.read_dir().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.insert(entry.file_name().into_string().unwrap());
    }
    let expected = ["usher.db", "usher.db-shm", "usher.db-wal"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(expected));
}

#[tokio::test]
async fn any_path_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("what? 100% #1 ünusual/usher.db");
    let store = Store::open(&Database::Sqlite(path.clone())).await.unwrap();
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    assert!(path.is_file());
}
