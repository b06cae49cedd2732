//! A database that goes away while the gateway serves, and comes back.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::runtime::Runtime;

use crate::support::crowd::{before, paced, stops_clean, whole};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::postgres;

/// A database that can be cut off, while others on the same server are served.
struct Place {
    runtime: Runtime,
    url: String,
}

impl Place {
    fn new() -> Self {
        let runtime = Runtime::new().expect("threads can be had");
        let url = runtime.block_on(postgres::fresh_database());
        Self { runtime, url }
    }

    /// Runs a statement from elsewhere, with the name of the database in place of `NAME`.
    fn have(&self, statement: &str) {
        let (server, rest) = self.url.split_once("/test_").expect("the name of a fresh database");
        let (number, host) = rest.split_once('?').expect("the directory of its socket");
        let elsewhere = format!("{server}/postgres?{host}");
        let statement = AssertSqlSafe(statement.replace("NAME", &format!("test_{number}")));
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(&elsewhere).await.expect("the server");
            sqlx::raw_sql(statement).execute(&mut connection).await.expect("it is done");
            connection.close().await.expect("it closes");
        });
    }

    fn go_away(&self) {
        self.have("ALTER DATABASE NAME WITH ALLOW_CONNECTIONS false");
        self.have("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'NAME'");
    }

    fn come_back(&self) {
        self.have("ALTER DATABASE NAME WITH ALLOW_CONNECTIONS true");
    }
}

/// What `/ready` says is done without.
fn missing(gateway: &Gateway) -> serde_json::Value {
    let ready = gateway.get("/ready").send();
    assert_eq!(ready.status, 200, "{}", ready.text());
    ready.json()["degraded"].clone()
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.get("/api/tags").key(key).send().status
}

#[test]
fn who_is_known_is_served_while_the_database_is_away_and_nobody_is_called_wrong() {
    let place = Place::new();
    let sims = [paced(1000, 2, &[])];
    let gateway = before(&sims, 2).database(&place.url).start();
    let (ann, admin) = (gateway.key("ann"), gateway.key("admin"));
    let stranger = "a-key-that-nobody-has-issued";
    assert_eq!((status(&gateway, ann), status(&gateway, admin)), (200, 200));

    place.go_away();
    eventually("it is done without", || missing(&gateway) == json!(["database"]));
    assert_eq!(status(&gateway, ann), 200);
    let answer = gateway.post("/api/chat", &whole(2)).key(ann).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let unknown = gateway.get("/api/tags").key(stranger).send();
    let said = (unknown.status, unknown.detail());
    assert_eq!(said, (503, "Identity cannot be checked now".to_owned()), "it may be a key");
    assert!(unknown.header("retry-after").is_some());
    let person = json!({ "username": "bob", "tier": "free" });
    let refused = gateway.post("/admin/users", &person).key(admin).send();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.detail().ends_with("so nothing was changed"), "{}", refused.detail());
    let login = json!({ "username": "ann", "password": "correct horse battery" });
    assert_eq!(gateway.post("/auth/login", &login).send().status, 503);

    place.come_back();
    eventually("it is back", || missing(&gateway).is_null());
    eventually("a stranger is one again", || status(&gateway, stranger) == 401);
    assert_eq!(gateway.post("/admin/users", &person).key(admin).send().status, 201);
    alternates(&gateway);
    assert!(!gateway.log().join("\n").contains(postgres::PASSWORD));
    stops_clean(gateway);
}

/// The log tells of the going and of the coming back, once each time.
fn alternates(gateway: &Gateway) {
    let told = || {
        let log = gateway.log();
        let told = log.iter().filter_map(|line| {
            let away = line.contains("known keys are served from memory, the database is silent");
            let back = line.contains("the database answers again");
            (away || back).then_some(away)
        });
        told.collect::<Vec<bool>>()
    };
    eventually("its return is logged", || told().last() == Some(&false));
    let told = told();
    let expected: Vec<bool> = (0..told.len()).map(|number| number % 2 == 0).collect();
    assert_eq!(told, expected, "{}", gateway.log().join("\n"));
}
