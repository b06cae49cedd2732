//! An SQLite file that is locked, on a full disk, damaged, or half there.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sqlx::{Connection, SqliteConnection};

use super::*;
use crate::support::crowd::whole;
use crate::support::gateway::{Home, gateway};
use crate::support::sim::{Sim, sim};

fn with_ann() -> (Sim, Gateway) {
    let sim = sim().args(&["--speed", "1000"]).start();
    let gateway = gateway().upstream_with("gpu0", &sim.url(), "slots: 8").user("ann", "free");
    (sim, gateway.start())
}

fn file(home: &Home) -> PathBuf {
    home.path().join("state/usher.db")
}

/// Does something to the file behind everybody's back.
fn say(home: &Home, statements: &str) {
    let url = format!("sqlite://{}", file(home).display());
    within(async {
        let mut connection = SqliteConnection::connect(&url).await.expect("it opens");
        let statements = sqlx::AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements).execute(&mut connection).await.expect("it does");
        connection.close().await.expect("it closes");
    });
}

fn within<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

#[test]
fn while_another_writes_readers_notice_nothing_and_writers_are_told_to_come_again() {
    let (_sim, gateway) = with_ann();
    let fresh = key_in(&make_key(&gateway, "fresh"));
    let url = format!("sqlite://{}", file(gateway.home()).display());
    within(async {
        let mut other = SqliteConnection::connect(&url).await.expect("it opens");
        let lock = other.begin_with("BEGIN IMMEDIATE").await.expect("nobody else writes");
        std::thread::scope(|scope| {
            let began = Instant::now();
            let writers: Vec<_> = (0..8)
                .map(|n| {
                    let gateway = &gateway;
                    scope.spawn(move || refused(&make_key(gateway, &format!("no {n}")), began))
                })
                .collect();
            let mut asked = 0;
            while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                // a key that was never asked about needs the database, and a new one each time
                let asking = Instant::now();
                assert_eq!(tags(&gateway, &fresh).status, 200);
                assert_eq!(tags(&gateway, &format!("a-key-of-nobody-number-{asked}")).status, 401);
                assert!(asking.elapsed() < SOON, "{:?}", asking.elapsed());
                asked += 1;
            }
            assert!(asked > 3, "the writers waited, the readers did not: {asked}");
            writers.into_iter().for_each(|writer| writer.join().expect("it was refused"));
        });
        lock.rollback().await.expect("it holds the lock");
    });
    key_in(&make_key(&gateway, "after"));
    for n in 0..8 {
        assert_eq!(traces(&gateway, &format!("no {n}")), (0, 0), "nothing was half done");
    }
}

/// From now on no file of the gateway's may have more bytes than this: what is beyond is written
/// in vain, as on a full disk.
fn let_files_grow_to(gateway: &Gateway, bytes: Option<u64>) {
    let pid = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(pid, Resource::Fsize, limit).expect("our own child's limit");
}

#[test]
fn on_a_full_disk_who_has_a_key_is_served_and_nothing_is_half_done() {
    let (_sim, gateway) = with_ann();
    let fresh = key_in(&make_key(&gateway, "fresh"));
    let_files_grow_to(&gateway, Some(1));
    refused(&make_key(&gateway, "in vain"), Instant::now());
    let chat = |key: &str| gateway.post("/api/chat", &whole(2)).key(key).send();
    for _ in 0..5 {
        assert_eq!(chat(gateway.key("ann")).status, 200);
        assert_eq!(chat(&fresh).status, 200, "whose owner has to be looked up");
        refused(&make_key(&gateway, "in vain"), Instant::now());
    }
    assert_eq!(gateway.get("/ready").send().status, 200);
    let_files_grow_to(&gateway, None);
    key_in(&make_key(&gateway, "after"));
    assert_eq!(traces(&gateway, "in vain"), (0, 0));
    assert_eq!(traces(&gateway, "after"), (1, 1));
    crate::support::eventually("what was used meanwhile is written down", || {
        let usage = gateway.get("/admin/usage?by=user").key(gateway.key("admin")).send().json();
        usage["data"].as_array().is_some_and(|lines| lines.iter().any(|it| it["requests"] == 10))
    });
}

/// A configuration with accounts, and no gateway.
fn at_rest() -> Home {
    let home = gateway().upstream("gpu0", "http://127.0.0.1:1").home();
    home.usher_json(&["init"]);
    home.usher_json(&["users", "create", "ann"]);
    say(
        &home,
        "INSERT INTO audit (at, actor, action, target, detail)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        SELECT i, 'test', 'none', 'nobody', hex(randomblob(50)) FROM n;
        PRAGMA wal_checkpoint(TRUNCATE)",
    );
    home
}

/// What `usher serve` says when it does not start.
fn does_not_serve(home: &Home) -> String {
    let output = home.usher(&["serve"]);
    assert_eq!(output.status.code(), Some(1), "it does not serve");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_damaged_page_is_found_before_anybody_is_served_and_a_backup_helps() {
    let home = at_rest();
    let backup = home.path().join("backup.db");
    say(&home, &format!("VACUUM INTO '{}'", backup.display()));
    let length = std::fs::metadata(file(&home)).expect("it is there").len();
    assert!(length > 20 * 4096, "there are pages to damage: {length}");
    let mut bytes = std::fs::OpenOptions::new().write(true).open(file(&home)).expect("ours");
    bytes.seek(SeekFrom::Start(length - 6 * 4096)).expect("it is as long as that");
    bytes.write_all(&[0xaa; 3 * 4096]).expect("ours");
    drop(bytes);
    let said = does_not_serve(&home);
    assert!(said.contains("usher.db is damaged: restore it from a backup"), "{said}");
    let doctor = home.usher(&["doctor"]);
    let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(report.contains("is damaged: restore it from a backup"), "{report}");

    std::fs::copy(&backup, file(&home)).expect("ours");
    let said = home.usher_json(&["users", "list"]).to_string();
    assert!(said.contains("ann") && said.contains("admin"), "{said}");
}

#[test]
fn a_schema_of_which_a_part_is_missing_is_served_by_nobody() {
    for harm in [
        "ALTER TABLE users DROP COLUMN tier_given",
        "DROP TABLE revoked_tokens",
        "DELETE FROM revision",
        "DROP TABLE schema_steps",
        "DELETE FROM schema_steps WHERE n > 1",
    ] {
        let home = at_rest();
        say(&home, harm);
        let said = does_not_serve(&home);
        assert!(said.contains("usher.db is not whole"), "{harm}: {said}");
        assert!(said.contains("restore it from a backup"), "{harm}: {said}");
    }
}
