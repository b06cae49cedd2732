//! A PostgreSQL server of the tests' own: one a test process, one database a test.
//!
//! A shell watches over it. The shell's standard input is a pipe from the test process, so when
//! that ends, however it ends, the server is stopped and its directory removed.

pub mod own;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use usher::config::{Database, Secret};

const REMEDY: &str = "PostgreSQL's initdb and postgres are needed: run `make setup`";
const PATIENCE: Duration = Duration::from_secs(60);

/// The password of the server's only role; no error may ever show it.
pub const PASSWORD: &str = "correct-horse-battery";

/// The URL of a fresh, empty database on the server, which is started if it is not running.
pub async fn fresh_database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = Server::shared();
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("server");
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.expect("CREATE DATABASE");
    connection.close().await.expect("close");
    server.url(&name)
}

/// As the configuration names it.
pub fn database(url: &str) -> Database {
    Database::Postgres(Secret::new(url.to_owned()))
}

struct Server {
    dir: PathBuf,
    /// Closed when this process ends: the watcher's sign.
    _lifeline: ChildStdin,
}

impl Server {
    fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    fn url(&self, database: &str) -> String {
        let dir = self.dir.to_str().expect("a temporary directory with an ordinary name");
        format!("postgres://usher:{PASSWORD}@localhost/{database}?host={dir}")
    }

    /// The directory of a server that was made and never started, for copies.
    fn template() -> PathBuf {
        static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
        let made = TEMPLATE.get_or_init(|| {
            let dir = &Self::shared().dir;
            let template = dir.join("template");
            let mut initdb = Account::command(Account::for_postgres().as_ref());
            initdb.arg(find_bin().join("initdb")).arg("-D").arg(&template).args(["-U", "usher"]);
            initdb.args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]);
            let made = initdb.arg("--pwfile").arg(dir.join("password")).current_dir("/").output();
            assert!(made.is_ok_and(|made| made.status.success()), "initdb");
            template
        });
        made.clone()
    }

    fn start() -> Self {
        let bin = find_bin();
        let dir = tempfile::Builder::new().prefix("usher-pg-").tempdir().expect("tempdir").keep();
        fs::write(dir.join("password"), PASSWORD).expect("password file");
        let account = Account::for_postgres();
        if let Some(account) = &account {
            for path in [&dir, &dir.join("password")] {
                chown(path, Some(account.uid), Some(account.gid)).expect("chown");
            }
        }
        let mut log = tempfile::tempfile().expect("log");
        let mut watcher = watch(&dir, &bin, account.as_ref(), &log);
        let lifeline = watcher.stdin.take().expect("stdin is a pipe");
        wait_until_ready(&dir, &bin, &mut watcher, &mut log);
        Self { dir, _lifeline: lifeline }
    }
}

/// Starts the shell that makes the server, waits for this process to end, and cleans up.
fn watch(dir: &Path, bin: &Path, account: Option<&Account>, log: &File) -> Child {
    // $1 is the directory and $2 holds the programs; the rest is said before each of them
    const SCRIPT: &str = r#"
        dir=$1 bin=$2; shift 2
        trap 'rm -rf "$dir"' EXIT
        "$@" "$bin/initdb" -D "$dir/data" -U usher --auth=scram-sha-256 \
            --pwfile="$dir/password" --encoding=UTF8 --no-locale --no-sync </dev/null || exit 1
        "$@" "$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c fsync=off \
            -c max_connections=200 </dev/null &
        read -r _
        kill -INT $!
        wait $!
    "#;
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, "watcher"]).arg(dir).arg(bin);
    match account {
        Some(Account { uid, gid }) => shell
            .args(["setpriv", "--clear-groups"])
            .args([format!("--reuid={uid}"), format!("--regid={gid}")]),
        None => shell.arg("env"),
    };
    // out of reach of a Ctrl-C at the terminal, which would end the watcher before its work
    shell.process_group(0).current_dir("/").stdin(Stdio::piped());
    shell.stdout(log.try_clone().expect("log")).stderr(log.try_clone().expect("log"));
    shell.spawn().expect("sh")
}

fn wait_until_ready(dir: &Path, bin: &Path, watcher: &mut Child, log: &mut File) {
    let start = Instant::now();
    let ready = || Command::new(bin.join("pg_isready")).arg("-q").arg("-h").arg(dir).status();
    while !ready().expect("pg_isready").success() {
        let ended = watcher.try_wait().expect("watcher");
        if ended.is_some() || start.elapsed() > PATIENCE {
            let mut text = String::new();
            log.rewind().and_then(|()| log.read_to_string(&mut text)).expect("log");
            panic!("PostgreSQL did not start: {text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whom the server runs as when the tests run as root, which PostgreSQL refuses to.
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// A command that runs as this account, without its own name.
    fn command(account: Option<&Self>) -> Command {
        let Some(Self { uid, gid }) = account else { return Command::new("env") };
        let mut command = Command::new("setpriv");
        command.arg("--clear-groups").args([format!("--reuid={uid}"), format!("--regid={gid}")]);
        command
    }

    fn for_postgres() -> Option<Self> {
        if fs::metadata("/proc/self").expect("/proc").uid() != 0 {
            return None;
        }
        let accounts = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let find = |name: &str| accounts.lines().find(|line| line.split(':').next() == Some(name));
        let line = find("postgres").or_else(|| find("nobody")).expect("user postgres or nobody");
        let number = |at| line.split(':').nth(at).and_then(|n| n.parse().ok()).expect("a number");
        Some(Self { uid: number(2), gid: number(3) })
    }
}

/// Where PostgreSQL's programs are: on the path, or the newest of Debian's versions.
fn find_bin() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|dir| has_server(dir));
    let number = |version: &Path| {
        version.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok())
    };
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|version| has_server(&version.join("bin")))
        .max_by_key(|version| number(version))
        .map(|version| version.join("bin"));
    on_path.or(newest).expect(REMEDY)
}

fn has_server(dir: &Path) -> bool {
    ["initdb", "postgres", "pg_isready"].iter().all(|name| dir.join(name).is_file())
}
