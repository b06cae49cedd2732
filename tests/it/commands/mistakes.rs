//! What commands cannot do, and how they say so.

use super::Machine;

#[test]
fn what_cannot_be_done_is_one_line_and_exit_code_1() {
    let machine = Machine::new();
    machine.text("init");
    for (arguments, line) in [
        ("users create admin", "there is a user 'admin' already"),
        ("users create cli", "'cli' cannot be a username: the audit trail calls the commands so"),
        (
            "users create bob --tier gold",
            "there is no tier 'gold': the configuration has admin, free, premium",
        ),
        (
            "users set-tier admin gold",
            "there is no tier 'gold': the configuration has admin, free, premium",
        ),
        ("users show bob", "there is no user 'bob'"),
        ("users disable admin", "'admin' is the last enabled admin: make another user admin first"),
        (
            "users set-tier admin free",
            "'admin' is the last enabled admin: make another user admin first",
        ),
        ("keys create --user bob --name x", "there is no user 'bob'"),
        (
            "keys create --user admin --name x --tier gold",
            "there is no tier 'gold': the configuration has admin, free, premium",
        ),
        ("keys list --user bob", "there is no user 'bob'"),
        ("keys show 99", "there is no key 99"),
        ("keys revoke 99", "there is no key 99"),
        ("keys rotate 99", "there is no key 99"),
    ] {
        assert_eq!(machine.refusal(arguments), format!("usher: {line}"), "usher {arguments}");
    }
    assert_eq!(machine.json("keys list")["data"].as_array().unwrap().len(), 1);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let machine = Machine::new();
    for arguments in [
        "frobnicate",
        "keys",
        "keys create --user bob",
        "keys create --user bob --name x --expires soon",
        "keys create --user bob --name x --concurrency 0",
        "keys create --user bob --name x --expires 0s",
        "keys import --sha256 1234 --user bob",
        "keys import --user bob --expires 0s --sha256 \
         0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "keys list --state lost",
        "keys show first",
        "keys rotate 1 --grace week",
        "users create",
        "users set-password bob hunter2",
        "token --user bob --ttl 500ms",
    ] {
        let output = machine.usher(arguments);
        assert_eq!(output.status.code(), Some(2), "usher {arguments}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    assert!(!machine.state().exists(), "wrong usage touches nothing");
}

#[test]
fn a_wrong_configuration_is_exit_code_1_and_touches_nothing() {
    let machine = Machine::with("health: { fall: many }");
    let text = machine.refusal("users list");
    assert!(text.contains("usher.yaml:3: health.fall: ") && !text.contains("more"), "{text}");
    assert!(!machine.state().exists());
}

#[test]
fn of_many_mistakes_the_first_is_told_and_how_to_see_the_others() {
    let machine = Machine::with("health: { fall: many, rise: many, risen: 1 }");
    let file = machine.dir.path().join("usher.yaml");
    let others = format!(" (and 2 more: usher check -c {})", file.display());
    for command in ["users list", "serve"] {
        let text = machine.refusal(command);
        assert!(text.contains("usher.yaml:3: health.fall: "), "{text}");
        assert!(text.ends_with(&others), "{text}");
    }
    let machine = Machine::with("auth: { jwt: { previous_secret_files: [one, two] } }");
    machine.text("init");
    let text = machine.refusal("token --user admin");
    assert!(text.contains("auth.jwt.previous_secret_files[0]: "), "{text}");
    assert!(text.contains(" (and 1 more: usher check -c "), "{text}");
}
