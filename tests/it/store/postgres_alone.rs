//! Servers that are not there, or not for us.

use usher::auth::IdentityStore;
use usher::store::{Store, StoreError};

use super::place::{CLI, Place, user};
use crate::support::postgres;

#[tokio::test]
async fn cut_connections_are_replaced() {
    let place = Place::postgres().await;
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let cut = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert!(place.number(cut).await > 0);
    assert_eq!(store.show_user("bob").await.unwrap().username, "bob");
    store.set_tier(CLI, "bob", "premium").await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 2);
}

#[tokio::test]
async fn an_unreachable_server_is_said_at_once_and_without_the_password() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://usher:{}@{free}/usher", postgres::PASSWORD);
    let error = refused(&url).await;
    assert!(error.contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let url = postgres::fresh_database().await.replace(postgres::PASSWORD, "hunter2hunter2");
    let error = refused(&url).await;
    assert!(error.ends_with("refuses the user or password of its URL"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_database_that_the_server_does_not_have_is_said() {
    let url = postgres::fresh_database().await.replace("/test_", "/absent_");
    let error = refused(&url).await;
    assert!(error.contains("does not exist on that server"), "{error}");
}

async fn refused(url: &str) -> String {
    let outcome = Store::open(&postgres::database(url)).await;
    let Some(StoreError::Unavailable(text)) = outcome.err() else { panic!("it opened") };
    assert!(!text.contains(postgres::PASSWORD), "{text}");
    text
}
