//! The commands as an operator types them: the real program, on a directory of its own.

mod mistakes;
mod rotation;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use usher::auth::{KeyHash, api_key};
use usher::config::Database;
use usher::store::Store;

use crate::support::postgres;

/// A machine on which Usher was never run.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self::with("")
    }

    /// One whose configuration says more.
    fn with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "listen: [{{ address: 127.0.0.1:18080 }}]\nstate_dir: state\n{more}\n\
             upstreams: [{{ name: one, url: 'http://127.0.0.1:11434' }}]\n"
        );
        std::fs::write(dir.path().join("usher.yaml"), text).unwrap();
        Self { dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn database(&self) -> PathBuf {
        self.state().join("usher.db")
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(arguments.split(' ')).arg("-c").arg(self.dir.path().join("usher.yaml"));
        command.env_remove("USHER_CONFIG").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn usher(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command that succeeds prints.
    fn text(&self, arguments: &str) -> String {
        let output = self.usher(arguments);
        let (out, err) = (utf8(&output.stdout), utf8(&output.stderr));
        assert!(output.status.success(), "usher {arguments}: {out}{err}");
        out
    }

    fn json(&self, arguments: &str) -> Value {
        let text = self.text(&format!("{arguments} --json"));
        assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The one line on standard error of a command that fails with exit code 1.
    fn refusal(&self, arguments: &str) -> String {
        let output = self.usher(arguments);
        assert_eq!(output.status.code(), Some(1), "usher {arguments}: {output:?}");
        assert_eq!(utf8(&output.stdout), "", "nothing on standard output");
        let text = utf8(&output.stderr);
        assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
        text.trim_end().to_owned()
    }
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn fields(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn is_rfc3339_utc(time: &Value) -> bool {
    let text = time.as_str().unwrap();
    text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}

const KEY_FIELDS: [&str; 15] = [
    "id",
    "prefix",
    "user",
    "name",
    "tier",
    "models",
    "limits",
    "delegating",
    "state",
    "created_at",
    "expires_at",
    "revoked_at",
    "last_used_at",
    "replaces",
    "replaced_by",
];

#[test]
fn init_prints_the_admin_key_once_and_how_to_use_it() {
    let machine = Machine::new();
    let text = machine.text("init");
    let keys: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(is_key).collect();
    assert_eq!(keys.len(), 1, "printed once: {text}");
    for part in ["curl http://127.0.0.1:18080/", "http://127.0.0.1:18080/v1", "ollama", "openai"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(mode(&machine.state()), 0o700);
    for file in machine.state().read_dir().unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let secret = std::fs::read_to_string(machine.state().join("jwt_secret")).unwrap();
    assert!(secret.len() >= 32 && secret.bytes().all(|byte| byte.is_ascii_graphic()));

    let again = machine.text("init");
    assert!(again.contains("Already initialised") && again.contains("Nothing was changed"));
    assert!(!again.contains("usk_"), "{again}");
    assert_eq!(std::fs::read_to_string(machine.state().join("jwt_secret")).unwrap(), secret);
    assert_eq!(machine.json("keys list")["data"].as_array().unwrap().len(), 1);
}

fn is_key(word: &&str) -> bool {
    word.starts_with("usk_") && api_key::classify(word).is_ok()
}

#[test]
fn init_as_json_is_the_key_object_and_then_a_note() {
    let machine = Machine::new();
    let key = machine.json("init");
    assert_eq!(
        (&key["user"], &key["name"], &key["state"]),
        (&json!("admin"), &json!("first"), &json!("active"))
    );
    assert!(is_key(&key["key"].as_str().unwrap()));
    let again = machine.json("init");
    assert_eq!(again["initialized"], json!(true));
    assert_eq!(again["changed"], json!(false));
    assert_eq!(again.get("key"), None);
    let admin = machine.json("users show admin");
    assert_eq!((&admin["tier"], &admin["disabled"]), (&json!("admin"), &json!(false)));
}

#[test]
fn init_completes_what_was_begun() {
    // as if killed after each step
    let machine = Machine::new();
    std::fs::create_dir(machine.state()).unwrap();
    assert!(machine.text("init").contains("usk_"));

    let machine = Machine::new();
    std::fs::create_dir(machine.state()).unwrap();
    std::fs::write(machine.state().join("jwt_secret.new"), "half").unwrap();
    std::fs::write(machine.database(), "").unwrap();
    assert!(machine.text("init").contains("usk_"));
    assert_eq!(std::fs::read(machine.state().join("jwt_secret")).unwrap().len(), 64);
    assert!(!machine.state().join("jwt_secret.new").exists());

    std::fs::remove_file(machine.state().join("jwt_secret")).unwrap();
    let text = machine.text("init");
    assert!(text.contains("JWT secret was missing") && !text.contains("usk_"), "{text}");
    assert_eq!(machine.json("users list")["data"].as_array().unwrap().len(), 1);
}

#[test]
fn init_killed_at_any_moment_is_completed_by_the_next() {
    for delay in 0..12 {
        let machine = Machine::new();
        let mut first = machine.command("init").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay * 3));
        first.kill().unwrap();
        first.wait().unwrap();
        machine.text("init");
        let secret = std::fs::read(machine.state().join("jwt_secret")).unwrap();
        assert_eq!(secret.len(), 64, "killed after {delay} × 3 ms");
        let (users, keys) = (machine.json("users list"), machine.json("keys list"));
        assert_eq!(users["data"][0]["tier"], json!("admin"));
        assert_eq!(users["data"].as_array().unwrap().len(), 1);
        assert_eq!(keys["data"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_created_key_is_an_object_whose_hash_is_all_that_is_kept() {
    let machine = Machine::new();
    machine.text("users create bob");
    let key = machine.json(
        "keys create --user bob --name laptop --tier free --expires 30d \
         --models llama3*,qwen3:8b --concurrency 2 --delegating",
    );
    let with_key: BTreeSet<&str> = KEY_FIELDS.into_iter().chain(["key"]).collect();
    assert_eq!(fields(&key), with_key);
    let plain = key["key"].as_str().unwrap();
    assert!(is_key(&plain));
    assert!(plain.starts_with(key["prefix"].as_str().unwrap()));
    assert_eq!(key["prefix"].as_str().unwrap().len(), 16);
    assert_eq!(
        (&key["user"], &key["name"], &key["tier"]),
        (&json!("bob"), &json!("laptop"), &json!("free"))
    );
    assert_eq!(key["models"], json!(["llama3*", "qwen3:8b"]));
    assert_eq!(key["limits"], json!({ "requests": null, "tokens": null, "concurrency": 2 }));
    assert_eq!((&key["delegating"], &key["state"]), (&json!(true), &json!("active")));
    assert!(is_rfc3339_utc(&key["created_at"]) && is_rfc3339_utc(&key["expires_at"]));

    let shown = machine.json(&format!("keys show {}", key["id"]));
    assert_eq!(fields(&shown), BTreeSet::from(KEY_FIELDS));
    let hash = KeyHash::of(plain.as_bytes()).to_hex();
    for file in machine.state().read_dir().unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|at| at == text.as_bytes());
        assert!(!holds(plain), "the key itself is in {}", path.display());
        assert!(path != machine.database() || holds(&hash), "its hash is not kept");
    }
}

#[test]
fn people_are_shown_rates_in_full_and_programs_as_they_were_given() {
    let machine = Machine::new();
    machine.text("users create bob");
    let rated = "keys create --user bob --name rated --requests 500/h --tokens 1M/d";
    let rated = machine.json(rated);
    let limits = json!({ "requests": "500/h", "tokens": "1M/d", "concurrency": null });
    assert_eq!(rated["limits"], limits);
    let people = machine.text(&format!("keys show {}", rated["id"]));
    assert!(people.contains("500/hour") && people.contains("1000000/day"), "{people}");
}

#[test]
fn standard_output_holds_a_created_key_and_nothing_else() {
    let machine = Machine::new();
    machine.text("users create bob");
    let output = machine.usher("keys create --user bob --name laptop");
    assert!(is_key(&utf8(&output.stdout).trim_end()), "{output:?}");
    assert!(utf8(&output.stderr).contains("only this once"));
    let broken = machine.command("keys create --user bob --name lost").stdout(full()).output();
    assert_eq!(broken.unwrap().status.code(), Some(1), "a key that nobody saw is an error");
}

fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn keys_are_listed_revoked_and_imported() {
    let machine = Machine::new();
    machine.text("users create ann --tier premium --email ann@example.org");
    machine.text("users create bob");
    let first = machine.json("keys create --user ann --name first");
    let second = machine.json("keys create --user bob --name second");
    let hash = KeyHash::of(b"sk-from-the-earlier-system").to_hex();
    let old = machine.json(&format!("keys import --sha256 {hash} --user bob --name old"));
    assert_eq!((&old["prefix"], &old["user"]), (&json!(null), &json!("bob")));
    assert_eq!(old.get("key"), None);
    let again = machine.refusal(&format!("keys import --sha256 {hash} --user ann"));
    assert_eq!(again, "usher: this key is known already");

    let ids = |arguments: &str| {
        let list = machine.json(arguments);
        assert_eq!(
            (fields(&list), &list["next"]),
            (BTreeSet::from(["data", "next"]), &json!(null))
        );
        list["data"].as_array().unwrap().iter().map(|key| key["id"].clone()).collect::<Vec<_>>()
    };
    let all = [&first["id"], &second["id"], &old["id"]].map(Clone::clone);
    assert_eq!(ids("keys list"), all);
    assert_eq!(ids("keys list --user bob"), all[1..]);
    let revoked = machine.json(&format!("keys revoke {}", second["id"]));
    assert_eq!(revoked["state"], json!("revoked"));
    assert!(is_rfc3339_utc(&revoked["revoked_at"]));
    assert_eq!(ids("keys list --state revoked"), all[1..2]);
    assert_eq!(ids("keys list --state active --user bob"), all[2..]);
    let table = machine.text("keys list");
    assert!(table.starts_with("ID  PREFIX"), "{table}");
    assert_eq!(table.lines().count(), 4);
}

#[test]
fn accounts_are_made_changed_and_shown() {
    let machine = Machine::new();
    let bob = machine.json("users create bob --email bob@example.org");
    let expected =
        ["id", "username", "email", "issuer", "subject", "tier", "disabled", "created_at"];
    assert_eq!(fields(&bob), BTreeSet::from(expected));
    assert_eq!((&bob["tier"], &bob["disabled"]), (&json!("free"), &json!(false)));
    assert!(is_rfc3339_utc(&bob["created_at"]));
    assert_eq!(machine.json("users set-tier bob premium")["tier"], json!("premium"));
    assert_eq!(machine.json("users disable bob")["disabled"], json!(true));
    assert!(machine.text("users list").contains("disabled"));
    assert_eq!(machine.json("users enable bob")["disabled"], json!(false));
    let shown = machine.json("users show bob");
    assert_eq!((&shown["tier"], &shown["email"]), (&json!("premium"), &json!("bob@example.org")));
    assert_eq!(machine.json("users list"), json!({ "data": [shown], "next": null }));
}

#[test]
fn the_version_names_commit_and_pingora() {
    let output = Command::new(env!("CARGO_BIN_EXE_usher")).arg("--version").output().unwrap();
    let text = utf8(&output.stdout);
    assert!(text.starts_with(concat!("usher ", env!("CARGO_PKG_VERSION"), " (commit ")), "{text}");
    assert!(text.contains("pingora 0."), "{text}");
}

#[test]
fn many_commands_at_once_all_succeed() {
    let machine = Machine::new();
    let commands: Vec<Child> = (0..16)
        .map(|n| machine.command(&format!("users create user{n}")).spawn().unwrap())
        .collect();
    for command in commands {
        let output = command.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(machine.json("users list")["data"].as_array().unwrap().len(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_work_while_a_server_holds_the_database_and_wait_for_its_writes() {
    let machine = Machine::new();
    machine.text("init");
    let server = Store::open(&Database::Sqlite(machine.database())).await.unwrap();
    let mut writer = SqliteConnection::connect(machine.database().to_str().unwrap()).await.unwrap();
    let writing = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let mut command = machine.command("users create bob").spawn().unwrap();
    assert_eq!(machine.json("users list")["data"].as_array().unwrap().len(), 1, "readers go on");
    assert_eq!(command.try_wait().unwrap(), None, "a writer waits its turn");
    writing.rollback().await.unwrap();
    assert!(command.wait().unwrap().success());
    assert_eq!(server.show_user("bob").await.unwrap().tier, "free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_commands_work_on_postgresql() {
    let url = postgres::fresh_database().await;
    let machine = Machine::with(&format!("database: '{url}'"));
    assert!(is_key(&machine.json("init")["key"].as_str().unwrap()));
    assert_eq!(machine.json("init")["initialized"], json!(true));
    assert!(!machine.database().exists());
    machine.text("users create bob");
    let key = machine.json("keys create --user bob --name laptop");
    assert_eq!(machine.json(&format!("keys revoke {}", key["id"]))["state"], json!("revoked"));
    assert_eq!(machine.json("users disable bob")["disabled"], json!(true));
}

#[tokio::test]
async fn an_unreachable_database_is_one_line_without_its_password() {
    let url = postgres::fresh_database().await.replace("/test_", "/absent_");
    let machine = Machine::with(&format!("database: '{url}'"));
    let line = machine.refusal("users list");
    assert!(line.contains("PostgreSQL") && !line.contains(postgres::PASSWORD), "{line}");
}
