//! PostgreSQL by TLS, with certificates of an authority of our own.

use usher::auth::IdentityStore;
use usher::store::{Store, StoreError};

use super::place::{CLI, user};
use crate::support::authority::Authority;
use crate::support::postgres::{self, own};

#[tokio::test]
async fn a_server_is_believed_by_the_authority_that_its_url_names_and_by_no_other() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = own::secured(&authority);
    let url = |host: &str, mode: &str, authority: &Authority| {
        let url = server.url().replace("localhost", host);
        format!("{url}?sslmode={mode}&sslrootcert={}", authority.file().display())
    };
    let database = postgres::database(&url("localhost", "verify-full", &authority));
    let store = Store::open(&database).await.unwrap();
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 1);

    let said = refused(&url("localhost", "verify-full", &stranger)).await;
    assert!(said.ends_with("that no authority we trust vouches for: sslrootcert"), "{said}");
    let said = refused(&url("127.0.0.1", "verify-full", &authority)).await;
    assert!(said.ends_with("a certificate for another name than its URL's"), "{said}");
    let said = refused(&format!("{}?sslmode=disable", server.url())).await;
    assert!(said.ends_with("wants TLS: add sslmode=verify-full to its URL"), "{said}");
    let lost = "?sslmode=verify-full&sslrootcert=/nowhere/ca.pem";
    let said = refused(&format!("{}{lost}", server.url())).await;
    assert!(said.contains("there is no file where its URL's sslrootcert says"), "{said}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_by_who_asks_for_it() {
    let (authority, server) = (Authority::new(), own::server());
    let file = authority.file();
    let url = format!("{}?sslmode=verify-full&sslrootcert={}", server.url(), file.display());
    let said = refused(&url).await;
    assert!(said.ends_with("speaks no TLS, which its URL's sslmode asks for"), "{said}");
}

#[tokio::test]
async fn a_standby_is_not_taken_for_the_primary() {
    let primary = own::server();
    let store = Store::open(&postgres::database(&primary.url())).await.unwrap();
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let standby = primary.standby();
    let said = refused(&standby.url()).await;
    assert!(said.ends_with("is a standby, which may be behind: name the primary"), "{said}");
    standby.promote();
    let store = Store::open(&postgres::database(&standby.url())).await.unwrap();
    assert_eq!(store.show_user("bob").await.unwrap().username, "bob");
}

async fn refused(url: &str) -> String {
    let outcome = Store::open(&postgres::database(url)).await;
    let Some(StoreError::Unavailable(text)) = outcome.err() else { panic!("it opened") };
    assert!(!text.contains(postgres::PASSWORD), "{text}");
    text
}
