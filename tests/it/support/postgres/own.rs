//! A PostgreSQL server of one test's own, which may be stopped, secured, repeated by another.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::{Account, PASSWORD, Server, find_bin};
use crate::support::authority::Authority;
use crate::support::eventually;

/// A server on a port of its own; it ends when this is dropped.
pub struct Postgres {
    bin: PathBuf,
    account: Option<Account>,
    address: SocketAddr,
    watcher: Option<Child>,
    directory: TempDir,
}

/// Makes a server and starts it.
pub fn server() -> Postgres {
    // making a server takes seconds, copying one does not
    start(|postgres| {
        let mut copy = postgres.words();
        run(copy.args(["cp", "-a"]).arg(Server::template()).arg(postgres.data()));
    })
}

/// Makes a server that shows this authority's certificate for `localhost`, and lets nobody in
/// without TLS.
pub fn secured(authority: &Authority) -> Postgres {
    let mut postgres = server();
    postgres.stop();
    authority.issue(&["localhost"], postgres.directory.path());
    let files = ["server.pem", "server.key"].map(|name| postgres.directory.path().join(name));
    files.iter().for_each(|file| postgres.belongs(file));
    postgres.write("postgresql.conf", "ssl = on\n");
    for (name, file) in ["ssl_cert_file", "ssl_key_file"].into_iter().zip(&files) {
        postgres.write("postgresql.conf", &format!("{name} = '{}'\n", file.display()));
    }
    let only_tls = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(postgres.data().join("pg_hba.conf"), only_tls).expect("it is ours");
    postgres.start_again();
    postgres
}

impl Postgres {
    /// Makes a server that repeats everything that this one does.
    pub fn standby(&self) -> Self {
        start(|standby| {
            let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
            let mut copy = standby.command("pg_basebackup");
            copy.args([
                "-h", &host, "-p", &port, "-U", "usher", "-X", "stream", "-c", "fast", "-R",
            ]);
            run(copy.arg("-D").arg(standby.data()).env("PGPASSWORD", PASSWORD));
        })
    }

    /// Makes a standby a server of its own, which can be written.
    pub fn promote(&self) {
        let mut promote = self.command("pg_ctl");
        run(promote.arg("promote").arg("-w").arg("-s").arg("-D").arg(self.data()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its own database as this user sees it; `at` is where one connects to.
    pub fn url_at(&self, at: SocketAddr) -> String {
        format!("postgres://usher:{PASSWORD}@localhost:{}/postgres", at.port())
    }

    /// The URL of its own database.
    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// Lets it forbid, or permit, to write, for connections that are open too.
    pub fn forbid_writing(&self, forbidden: bool) {
        let word = if forbidden { "on" } else { "off" };
        self.write("postgresql.conf", &format!("default_transaction_read_only = {word}\n"));
        let mut reload = self.command("pg_ctl");
        run(reload.arg("reload").arg("-s").arg("-D").arg(self.data()));
    }

    /// Has a statement executed.
    pub fn say(&self, statement: &'static str) {
        within(async {
            let mut connection = PgConnection::connect(&self.url()).await.expect("it is there");
            sqlx::raw_sql(statement).execute(&mut connection).await.expect("it does that");
        });
    }

    /// Whether it has a table of this name.
    pub fn has_table(&self, name: &str) -> bool {
        within(async {
            let mut connection = PgConnection::connect(&self.url()).await.expect("it is there");
            let found = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(name);
            found.fetch_one(&mut connection).await.expect("it says")
        })
    }

    /// Ends it as a crash does.
    pub fn stop(&mut self) {
        let Some(mut watcher) = self.watcher.take() else { return };
        let word = watcher.stdin.take().map(|mut stdin| stdin.write_all(b"stop\n"));
        assert!(word.is_some_and(|said| said.is_ok()), "its watcher is there");
        watcher.wait().expect("a child can be waited for");
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        eventually("PostgreSQL starts on its port", || self.try_start());
    }

    /// Whether it came to answer on its port.
    fn try_start(&mut self) -> bool {
        // a line on its standard input stops the server, its end removes the directory too
        const SCRIPT: &str = r#"
            dir=$1 bin=$2 port=$3; shift 3
            "$@" "$bin/postgres" -D "$dir/data" -k "$dir" -p "$port" -c listen_addresses=127.0.0.1 \
                -c fsync=off -c hot_standby=on </dev/null >"$dir/log" 2>&1 &
            server=$!
            for _ in $(seq 1500); do
                kill -0 $server 2>/dev/null || break
                "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && break
                sleep 0.02
            done
            "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && echo up || echo down
            if read -r _; then kill -QUIT $server; wait $server; exit 0; fi
            kill -QUIT $server; wait $server
            rm -rf "$dir"
        "#;
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "watcher"]).arg(self.directory.path()).arg(&self.bin);
        let words = self.words();
        shell.arg(self.address.port().to_string()).arg(words.get_program()).args(words.get_args());
        shell.process_group(0).current_dir("/");
        let mut watcher = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let mut said = String::new();
        let mut lines = BufReader::new(watcher.stdout.take().expect("piped"));
        lines.read_line(&mut said).expect("a line");
        self.watcher = Some(watcher);
        if said.trim() == "up" {
            return true;
        }
        self.stop();
        false
    }

    fn write(&self, file: &str, lines: &str) {
        let file = fs::OpenOptions::new().append(true).open(self.data().join(file));
        file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("it is ours");
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Gives a file to whom the server runs as.
    fn belongs(&self, file: &Path) {
        if let Some(Account { uid, gid }) = self.account {
            chown(file, Some(uid), Some(gid)).expect("root may");
        }
    }

    /// A command that is to run as the server does, without its own name.
    fn words(&self) -> Command {
        let mut command = Account::command(self.account.as_ref());
        command.current_dir("/");
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.words();
        command.arg(self.bin.join(program));
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            drop(watcher.stdin.take());
            watcher.wait().ok();
        }
    }
}

/// A server in a directory that `fill` fills.
fn start(fill: impl FnOnce(&Postgres)) -> Postgres {
    let directory = tempfile::Builder::new().prefix("usher-pg-").tempdir().expect("tempdir");
    let (bin, account) = (find_bin(), Account::for_postgres());
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let mut postgres = Postgres { bin, account, address, watcher: None, directory };
    postgres.belongs(postgres.directory.path());
    fill(&postgres);
    // the port may be somebody else's by now; they go, or the test fails and says so
    postgres.start_again();
    postgres
}

fn within<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn run(command: &mut Command) {
    let Output { status, stderr, .. } = command.output().expect("the program is there");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
}
