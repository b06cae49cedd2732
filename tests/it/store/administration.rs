//! Accounts that are changed and removed; lists that come in parts; the audit trail.

use std::sync::Arc;

use usher::auth::ssh_key::PublicKey;
use usher::auth::{Holder, IdentityStore, Subject, User};
use usher::store::{
    Actor, AuditFilter, Fingerprint, KeyFilter, KeyState, Span, Store, StoreError, UserFilter,
    UserPatch,
};

use super::place::{CLI, HERE, Place, hash, holder, key, spec, user};

on_both! {
    a_patch_of_a_user_changes_what_it_names
    the_last_admin_is_neither_patched_away_nor_removed
    who_is_admin_by_a_token_alone_is_not_the_admin_that_must_stay
    a_user_of_another_issuer_gets_keys_once_it_has_a_tier
    a_user_of_another_issuer_is_disabled_not_removed
    a_renewed_hash_never_undoes_a_changed_password
    a_removed_user_takes_the_keys_along_and_leaves_the_trail
    lists_come_in_parts_that_fit_together
    the_trail_is_read_newest_first_and_by_what_is_asked
    odd_addresses_are_refused
    a_name_that_is_none_is_nobodys
}

const BY: &Actor<'_> = &Actor { name: "ann", address: "10.0.0.7" };

fn patch(tier: Option<&str>, disabled: Option<bool>) -> UserPatch {
    UserPatch { tier: tier.map(str::to_owned), disabled, ..UserPatch::default() }
}

async fn a_patch_of_a_user_changes_what_it_names(place: Place) {
    const VERSION: &str = "SELECT token_version FROM users WHERE username = 'bob'";
    let store = place.open().await;
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let mail = Some(Some("bob@example.org".to_owned()));
    let all = UserPatch { email: mail, ..patch(Some("premium"), Some(true)) };
    let changed = store.patch_user(BY, bob.id, &all).await.unwrap().record;
    assert_eq!((changed.tier.as_str(), changed.disabled), ("premium", true));
    assert_eq!(changed.email.as_deref(), Some("bob@example.org"));
    assert_eq!(store.show_user_by_id(bob.id).await.unwrap(), changed);
    assert_eq!(place.number(VERSION).await, 1, "one change ends the tokens once");
    let before = store.revision().await.unwrap();
    for nothing in [&all, &UserPatch::default()] {
        assert!(!store.patch_user(BY, bob.id, nothing).await.unwrap().changed);
    }
    assert_eq!(store.revision().await.unwrap(), before, "nothing new, nothing written");
    let none = UserPatch { email: Some(None), ..patch(None, Some(false)) };
    let back = store.patch_user(BY, bob.id, &none).await.unwrap().record;
    assert_eq!((back.email, back.disabled, back.tier.as_str()), (None, false, "premium"));
    assert_eq!(place.number(VERSION).await, 1, "neither of these ends tokens");
    assert_eq!(
        place.audit().await[1..],
        [
            "ann|10.0.0.7|user.set-tier|bob|free to premium",
            "ann|10.0.0.7|user.set-email|bob|bob@example.org",
            "ann|10.0.0.7|user.disable|bob|",
            "ann|10.0.0.7|user.set-email|bob|",
            "ann|10.0.0.7|user.enable|bob|",
        ]
    );
    let unknown = store.patch_user(BY, 99, &all).await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no user 99");
}

async fn the_last_admin_is_neither_patched_away_nor_removed(place: Place) {
    let store = place.open().await;
    let ann = store.create_user(CLI, &user("ann", "admin")).await.unwrap();
    let off = store.create_user(CLI, &user("off", "admin")).await.unwrap();
    store.patch_user(CLI, off.id, &patch(None, Some(true))).await.unwrap();
    for outcome in [
        store.patch_user(BY, ann.id, &patch(Some("free"), None)).await.map(|act| act.record),
        store.patch_user(BY, ann.id, &patch(None, Some(true))).await.map(|act| act.record),
        store
            .patch_user(BY, ann.id, &patch(Some("premium"), Some(true)))
            .await
            .map(|act| act.record),
        store.delete_user(BY, ann.id).await,
    ] {
        assert!(matches!(outcome, Err(StoreError::LastAdmin(name)) if name == "ann"));
    }
    assert_eq!(store.show_user_by_id(ann.id).await.unwrap(), ann);
    store.patch_user(CLI, off.id, &patch(None, Some(false))).await.unwrap();
    store.delete_user(BY, ann.id).await.unwrap();
    assert_eq!(store.list_users().await.unwrap().len(), 1);
}

/// A user that came with another issuer's token, of this tier.
async fn visitor(store: &Store, tier: &str) -> User {
    let subject = Subject {
        issuer: "https://id.example".to_owned(),
        issuer_name: "idp".to_owned(),
        subject: "eve".to_owned(),
        email: None,
        tier: tier.into(),
        token: "t".into(),
    };
    store.identity(&Holder::Subject(Arc::new(subject)), HERE).await.unwrap().unwrap().user
}

async fn who_is_admin_by_a_token_alone_is_not_the_admin_that_must_stay(place: Place) {
    let store = place.open().await;
    let ann = store.create_user(CLI, &user("ann", "admin")).await.unwrap();
    let eve = visitor(&store, "admin").await;
    for outcome in [
        store.patch_user(BY, ann.id, &patch(None, Some(true))).await.map(|act| act.record),
        store.delete_user(BY, ann.id).await,
    ] {
        assert!(matches!(outcome, Err(StoreError::LastAdmin(name)) if name == "ann"));
    }
    store.set_disabled(BY, &eve.username, true).await.unwrap();
    store.set_disabled(BY, &eve.username, false).await.unwrap();
    store.set_tier(BY, &eve.username, "admin").await.unwrap();
    store.delete_user(BY, ann.id).await.unwrap();
    let last = store.set_disabled(BY, &eve.username, true).await.unwrap_err();
    assert!(matches!(last, StoreError::LastAdmin(_)), "{last:?}");
}

async fn a_user_of_another_issuer_gets_keys_once_it_has_a_tier(place: Place) {
    let line = "ssh-ed25519 \
                AAAAC3NzaC1lZDI1NTE5AAAAIFV185P78fAo3kujNd6z843/HnIk8sNyrdo8SqxNHSYe";
    let store = place.open().await;
    let eve = visitor(&store, "premium").await;
    let print = Fingerprint { hash: hash("one"), public_id: Some("one") };
    let public = PublicKey::parse(line).unwrap();
    let spec = spec(&eve.username, "one");
    for refused in [
        store.create_key(CLI, &spec, &print).await.map(drop).unwrap_err(),
        store.add_ssh_key(CLI, eve.id, &public).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(refused, StoreError::Invalid(_)), "{refused:?}");
        assert!(refused.to_string().contains("usher users set-tier idp+eve"), "{refused}");
    }
    store.set_tier(CLI, &eve.username, "free").await.unwrap();
    store.create_key(CLI, &spec, &print).await.unwrap();
    store.add_ssh_key(CLI, eve.id, &public).await.unwrap();
}

async fn a_user_of_another_issuer_is_disabled_not_removed(place: Place) {
    let store = place.open().await;
    let eve = visitor(&store, "free").await;
    store.set_disabled(BY, &eve.username, true).await.unwrap();
    let refused = store.delete_user(BY, eve.id).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused:?}");
    assert!(refused.to_string().contains("disable it instead"), "{refused}");
    assert!(visitor(&store, "free").await.disabled, "and so it stays");
}

async fn a_renewed_hash_never_undoes_a_changed_password(place: Place) {
    let store = place.open().await;
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let kept = async || store.login("bob").await.unwrap().unwrap().1;
    store.set_password(CLI, "bob", "weak").await.unwrap();
    store.renew_password_hash(bob.id, "weak", "strong").await.unwrap();
    assert_eq!(kept().await.as_deref(), Some("strong"));
    store.set_password(CLI, "bob", "changed").await.unwrap();
    store.renew_password_hash(bob.id, "strong", "stronger").await.unwrap();
    assert_eq!(kept().await.as_deref(), Some("changed"));
}

async fn a_removed_user_takes_the_keys_along_and_leaves_the_trail(place: Place) {
    let store = place.open().await;
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let old = key(&store, "bob", "old").await;
    let print = Fingerprint { hash: hash("new"), public_id: Some("new") };
    store.rotate_key(CLI, old.id, std::time::Duration::from_secs(60), &print).await.unwrap();
    assert_eq!(store.delete_user(BY, bob.id).await.unwrap(), bob);
    for plain in ["old", "new"] {
        assert!(store.identity(&holder(plain), HERE).await.unwrap().is_none(), "{plain}");
    }
    assert_eq!(place.number("SELECT COUNT(*) FROM api_keys").await, 0);
    let audit = place.audit().await;
    assert_eq!(audit.last().unwrap(), &format!("ann|10.0.0.7|user.delete|bob|id {}", bob.id));
    assert_eq!(audit.len(), 4, "what was done before stays known");
    let again = store.create_user(CLI, &user("bob", "free")).await.unwrap();
    assert!(again.id > bob.id, "an id is nobody else's, ever");
    let gone = store.delete_user(BY, bob.id).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound(_)), "{gone:?}");
}

async fn lists_come_in_parts_that_fit_together(place: Place) {
    let store = place.open().await;
    for name in ["ann", "bob"] {
        store.create_user(CLI, &user(name, "free")).await.unwrap();
    }
    store.set_tier(CLI, "bob", "premium").await.unwrap();
    let mut active = Vec::new();
    for n in 0..7 {
        let made = key(&store, if n % 2 == 0 { "bob" } else { "ann" }, &format!("key{n}")).await;
        match n {
            2 | 5 => drop(store.revoke_key(CLI, made.id).await.unwrap()),
            _ => active.push(made.id),
        }
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let span = Span { after, limit: Some(2) };
        let filter = KeyFilter { state: Some(KeyState::Active), span, ..KeyFilter::default() };
        let part = store.list_keys(&filter).await.unwrap();
        assert!(part.len() <= 2);
        let Some(last) = part.last() else { break };
        after = Some(last.id);
        seen.extend(part.iter().map(|key| key.id));
    }
    assert_eq!(seen, active);
    let bobs = KeyFilter {
        user: Some("bob".to_owned()),
        span: Span { after: Some(seen[0]), limit: Some(1) },
        ..KeyFilter::default()
    };
    let names = store.list_keys(&bobs).await.unwrap();
    assert_eq!(names.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["key2"]);

    let find = async |tier: Option<&str>, disabled, after, limit| {
        let filter =
            UserFilter { tier: tier.map(str::to_owned), disabled, span: Span { after, limit } };
        let users = store.find_users(&filter).await.unwrap();
        users.into_iter().map(|user| user.username).collect::<Vec<_>>()
    };
    assert_eq!(find(None, None, None, None).await, ["ann", "bob"]);
    assert_eq!(find(Some("premium"), None, None, None).await, ["bob"]);
    assert_eq!(find(None, Some(true), None, None).await, Vec::<String>::new());
    assert_eq!(find(None, Some(false), None, Some(1)).await, ["ann"]);
    let ann = store.show_user("ann").await.unwrap().id;
    assert_eq!(find(None, None, Some(ann), Some(1)).await, ["bob"]);
    assert_eq!(find(None, None, Some(i64::MAX), None).await, Vec::<String>::new());
}

async fn the_trail_is_read_newest_first_and_by_what_is_asked(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    store.set_tier(BY, "bob", "premium").await.unwrap();
    store.record_act(BY, "upstream.drain", "gpu0").await.unwrap();
    store.set_tier(CLI, "bob", "free").await.unwrap();
    let acts = async |filter: AuditFilter| {
        let acts = store.list_acts(&filter).await.unwrap();
        acts.into_iter().map(|act| format!("{} {}", act.actor, act.action)).collect::<Vec<_>>()
    };
    let text = |text: &str| Some(text.to_owned());
    let all = ["cli user.set-tier", "ann upstream.drain", "ann user.set-tier", "cli user.create"];
    assert_eq!(acts(AuditFilter::default()).await, all);
    let anns = AuditFilter { actor: text("ann"), ..AuditFilter::default() };
    assert_eq!(acts(anns).await, all[1..3]);
    let kind = AuditFilter { action: text("user.create"), ..AuditFilter::default() };
    assert_eq!(acts(kind).await, all[3..]);
    let bobs = AuditFilter { target: text("bob"), actor: text("cli"), ..AuditFilter::default() };
    assert_eq!(acts(bobs).await, [all[0], all[3]]);
    let first = store.list_acts(&AuditFilter::default()).await.unwrap();
    let span = Span { after: Some(first[0].id), limit: Some(2) };
    let part = store.list_acts(&AuditFilter { span, ..AuditFilter::default() }).await.unwrap();
    assert_eq!(part, first[1..3]);
    assert_eq!((first[1].target.as_str(), first[1].address.as_str()), ("gpu0", "10.0.0.7"));
    visitor(&store, "free").await;
    let made = &store.list_acts(&AuditFilter::default()).await.unwrap()[0];
    let told = (made.actor.as_str(), made.action.as_str(), made.target.as_str());
    assert_eq!(told, ("idp", "user.create", "idp+eve"));
    assert_eq!(made.address, HERE.to_string(), "where the first token came from");
}

async fn odd_addresses_are_refused(place: Place) {
    let store = place.open().await;
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let long = format!("{}@example.org", "x".repeat(255));
    for odd in ["", "bob", "@", "bob@", "@host", "b ob@host", "bob@ho\nst", &long] {
        let new = usher::store::NewUser { email: Some(odd.to_owned()), ..user("eve", "free") };
        let mail = UserPatch { email: Some(Some(odd.to_owned())), ..UserPatch::default() };
        for error in [
            store.create_user(CLI, &new).await.unwrap_err(),
            store.patch_user(CLI, bob.id, &mail).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Invalid(_)), "{odd:?}: {error:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
    assert_eq!(store.revision().await.unwrap(), 1);
}

async fn a_name_that_is_none_is_nobodys(place: Place) {
    let store = place.open().await;
    // PostgreSQL takes no text with a zero byte, and that must not look like a broken database
    for name in ["no\0body", "", "two words", "x\n"] {
        let filter = KeyFilter { user: Some(name.to_owned()), ..KeyFilter::default() };
        for error in [
            store.show_user(name).await.unwrap_err(),
            store.set_tier(CLI, name, "free").await.unwrap_err(),
            store.list_keys(&filter).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::NotFound(_)), "{name:?}: {error:?}");
        }
    }
    assert_eq!(store.revision().await.unwrap(), 0);
}
