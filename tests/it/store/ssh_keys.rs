//! Public keys of users.

use usher::auth::ssh_key::PublicKey;
use usher::store::StoreError;

use super::place::{CLI, Place, user};

on_both! {
    a_public_key_is_one_users_until_it_is_taken_back
    a_removed_user_frees_the_public_keys
}

const LINE: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFV185P78fAo3kujNd6z843/HnIk8sNyrdo8SqxNHSYe";

async fn a_public_key_is_one_users_until_it_is_taken_back(place: Place) {
    let store = place.open().await;
    let ann = store.create_user(CLI, &user("ann", "free")).await.unwrap().id;
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap().id;
    let key = PublicKey::parse(LINE).unwrap();
    let added = store.add_ssh_key(CLI, ann, &key).await.unwrap();
    assert_eq!((added.user.as_str(), added.public_key.as_str()), ("ann", LINE));
    assert_eq!(store.list_ssh_keys(ann).await.unwrap(), std::slice::from_ref(&added));
    assert!(store.list_ssh_keys(bob).await.unwrap().is_empty());
    let taken = store.add_ssh_key(CLI, bob, &key).await.unwrap_err();
    assert!(matches!(taken, StoreError::Conflict(_)), "{taken:?}");
    let others = store.remove_ssh_key(CLI, bob, added.id).await.unwrap_err();
    assert_eq!(others.to_string(), format!("there is no SSH key {} of 'bob'", added.id));
    assert_eq!(store.remove_ssh_key(CLI, ann, added.id).await.unwrap(), added);
    assert!(store.list_ssh_keys(ann).await.unwrap().is_empty());
    let again = store.add_ssh_key(CLI, bob, &key).await.unwrap();
    assert_ne!(again.id, added.id);
    let detail = |id: i64| format!("{id} {}", key.fingerprint());
    assert_eq!(
        place.audit().await[2..],
        [
            format!("cli||user.add-ssh-key|ann|{}", detail(added.id)),
            format!("cli||user.remove-ssh-key|ann|{}", detail(added.id)),
            format!("cli||user.add-ssh-key|bob|{}", detail(again.id)),
        ]
    );
}

async fn a_removed_user_frees_the_public_keys(place: Place) {
    let store = place.open().await;
    let ann = store.create_user(CLI, &user("ann", "free")).await.unwrap().id;
    let key = PublicKey::parse(LINE).unwrap();
    store.add_ssh_key(CLI, ann, &key).await.unwrap();
    store.delete_user(CLI, ann).await.unwrap();
    assert_eq!(place.number("SELECT COUNT(*) FROM ssh_keys").await, 0);
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap().id;
    store.add_ssh_key(CLI, bob, &key).await.unwrap();
    let nobody = store.list_ssh_keys(ann).await.unwrap_err();
    assert!(matches!(nobody, StoreError::NotFound(_)), "{nobody:?}");
}
