//! Who may try how often.

use super::*;

const WRONG: &str = "wrong horse battery staple";
const BEHIND: &str = "auth: { trusted_proxies: [127.0.0.1] }";

fn statuses(gateway: &Gateway, address: &str, password: &str, times: usize) -> Vec<u16> {
    (0..times).map(|_| from(gateway, address, password).status).collect()
}

#[test]
fn five_wrong_attempts_and_the_sixth_is_not_even_looked_at() {
    let (_instance, gateway) = house(|it| it);
    for _ in 0..5 {
        assert_eq!(login(&gateway, "ann", WRONG).status, 401);
    }
    let sixth = login(&gateway, "ann", PASSWORD);
    assert_eq!(refused(&sixth), (429, "Too many login attempts. Limit: 5/minute".to_owned()));
    let wait: u64 = sixth.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert_eq!(gateway.get("/auth/me").key(gateway.key("ann")).send().status, 200, "keys go on");
    eventually("it is logged", || {
        gateway.security_lines().iter().any(|line| line.contains("login_limited address=127.0.0.1"))
    });
}

#[test]
fn however_many_come_at_once_five_are_looked_at() {
    let (_instance, gateway) = house(|it| it);
    let wrong = json!({ "username": "ann", "password": WRONG });
    let waiting: Vec<_> = (0..40).map(|_| gateway.post("/auth/login", &wrong).start()).collect();
    let answers = waiting.into_iter().map(|wire| wire.exchange("POST").rest().status);
    let answers: Vec<u16> = answers.collect();
    // a busy machine may not come to hash one of them in time
    let looked_at = answers.iter().filter(|status| [401, 503].contains(status)).count();
    let refused = answers.iter().filter(|status| **status == 429).count();
    assert_eq!((looked_at, refused), (5, 35), "{answers:?}");
}

#[test]
fn right_attempts_count_like_wrong_ones_and_malformed_ones_too() {
    let (_instance, gateway) = house(|it| it.config(BEHIND));
    assert_eq!(statuses(&gateway, "192.0.2.1", PASSWORD, 6), [200, 200, 200, 200, 200, 429]);
    let malformed = gateway.request("POST", "/auth/login").header("X-Forwarded-For", "192.0.2.2");
    let malformed = malformed.body("x");
    for _ in 0..5 {
        assert_eq!(malformed.send().status, 400);
    }
    assert_eq!(from(&gateway, "192.0.2.2", PASSWORD).status, 429);
}

#[test]
fn each_address_has_its_own_attempts_and_a_network_of_ipv6_is_one() {
    let (_instance, gateway) = house(|it| it.config(BEHIND));
    assert_eq!(statuses(&gateway, "192.0.2.1", WRONG, 6).last(), Some(&429));
    assert_eq!(from(&gateway, "::ffff:192.0.2.1", PASSWORD).status, 429, "the same address");
    assert_eq!(from(&gateway, "192.0.2.1, 127.0.0.1", PASSWORD).status, 429);
    assert_eq!(from(&gateway, "192.0.2.7", PASSWORD).status, 200);
    for host in 1..=5 {
        assert_eq!(from(&gateway, &format!("2001:db8:1:2::{host}"), WRONG).status, 401);
    }
    assert_eq!(from(&gateway, "2001:db8:1:2:ffff::9", PASSWORD).status, 429);
    assert_eq!(from(&gateway, "2001:db8:1:3::1", PASSWORD).status, 200, "another network");
}

#[test]
fn nobody_gets_more_attempts_by_saying_to_be_somebody_else() {
    let (_instance, gateway) = house(|it| it);
    for host in 1..=5 {
        assert_eq!(from(&gateway, &format!("192.0.2.{host}"), WRONG).status, 401);
    }
    assert_eq!(from(&gateway, "192.0.2.9", WRONG).status, 429, "nobody is trusted to say so");
    assert_eq!(login(&gateway, "ann", PASSWORD).status, 429);
}

#[test]
fn many_who_guess_at_one_account_are_slowed_and_its_owner_is_not() {
    let (_instance, gateway) = house(|it| it.config(BEHIND));
    let home = "198.51.100.7";
    assert_eq!(from(&gateway, home, PASSWORD).status, 200);
    let mut slowed = None;
    for host in 1..=60 {
        let answer = from(&gateway, &format!("203.0.113.{host}"), WRONG);
        if answer.status == 429 {
            slowed = Some((host, answer));
            break;
        }
        assert_eq!(answer.status, 401);
    }
    let (after, answer) = slowed.expect("somebody is slowed");
    assert!(after > 50, "after {after}");
    assert_eq!(answer.detail(), "Too many failed attempts at this account. Try again later");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(from(&gateway, home, PASSWORD).status, 200, "where the owner has been before");
}

#[test]
fn attempts_that_we_were_too_busy_to_judge_are_no_failures() {
    let (_instance, gateway) = house(|it| it.config(BEHIND));
    let wrong = json!({ "username": "ann", "password": WRONG });
    let attempt = |number: usize| {
        let request = gateway.post("/auth/login", &wrong);
        request.header("X-Forwarded-For", &format!("203.0.113.{number}"))
    };
    // more at once than are hashed and wait to be
    let waiting: Vec<_> = (1..=45).map(|number| attempt(number).start()).collect();
    let answers = waiting.into_iter().map(|wire| wire.exchange("POST").rest());
    let (mut failed, mut busy) = (0, 0);
    for answer in answers {
        match answer.status {
            401 => failed += 1,
            503 => {
                assert!(answer.header("retry-after").is_some());
                busy += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(busy > 0, "{failed} were all judged");
    for number in failed + 1..=50 {
        let answer = attempt(100 + number).send();
        assert_eq!(answer.status, 401, "{number} of 50, {busy} not judged: {}", answer.text());
    }
    assert_eq!(attempt(200).send().status, 429, "what was judged counts");
}
