//! `usher doctor`: what a report needs, and a walk that tells good from bad.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::gateway::{Gateway, gateway};
use crate::support::sim::sim;

const FAST: [&str; 2] = ["--speed", "50"];

/// What the doctor says for programs and for people, and how it ends.
fn doctor(gateway: &Gateway, key: &str) -> (Value, String, Option<i32>) {
    let url = gateway.url();
    let run = |json: &[&str]| {
        let mut command = gateway.home().command(&["doctor", "--url", &url]);
        command.args(json).env("USHER_KEY", key).output().expect("the binary runs")
    };
    let (programs, people) = (run(&["--json"]), run(&[]));
    let value = serde_json::from_slice(&programs.stdout).expect("it prints JSON");
    let text = String::from_utf8_lossy(&people.stdout).into_owned();
    assert_eq!(programs.status.code(), people.status.code());
    (value, text, people.status.code())
}

fn outcomes(report: &Value) -> Vec<bool> {
    let steps = report["walk"].as_array().expect("a list of steps");
    steps.iter().map(|step| step["ok"].as_bool().expect("good or bad")).collect()
}

#[test]
fn a_healthy_gateway_passes_every_step() {
    let (ollama, other) = (
        sim().args(&FAST).start(),
        sim().args(&FAST).args(&["--openai-only", "--models", "big/model=size:1GiB"]).start(),
    );
    let gateway = gateway()
        .upstream("gpu0", &ollama.url())
        .upstream_with("vllm", &other.url(), "kind: openai")
        .start();
    let (report, text, code) = doctor(&gateway, gateway.key("admin"));
    assert_eq!(outcomes(&report), [true; 9], "{text}");
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(report["database"], "sqlite");
    assert_eq!(report["database_error"], Value::Null);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["configuration"].as_str().expect("a path").ends_with("usher.yaml"));
    assert!(report["binary"].as_str().expect("a path").ends_with("usher"));
    assert!(report["upstreams"][0]["version"].is_string(), "{report}");
    assert!(report["upstreams"][0]["models"].to_string().contains("llama3.2"), "{report}");
    assert!(report["upstreams"][1]["models"].to_string().contains("big/model"), "{report}");
    assert_eq!(report["warnings"], serde_json::json!([]), "nothing is wrong");
    assert!(text.contains("ok    no key is refused: 401"), "{text}");
    assert!(!text.contains(gateway.key("admin")), "a report is for others to read");
}

#[test]
fn a_bad_key_fails_what_needs_a_good_one_and_the_doctor() {
    let sim = sim().args(&FAST).start();
    let gateway = gateway().upstream("gpu0", &sim.url()).start();
    let (report, text, code) = doctor(&gateway, "usk_wrong");
    let (good, bad) = (true, false);
    let expected = [good, good, good, good, bad, good, good, bad, bad];
    assert_eq!(outcomes(&report), expected, "{text}");
    assert!(text.contains("FAIL  a good key streams from a model"), "{text}");
    assert_eq!(code, Some(1));
    let (report, _, code) = doctor(&gateway, "");
    assert!(report["walk"][4]["outcome"].to_string().contains("USHER_KEY"), "{report}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_walk_logs_in_where_it_is_told_who_it_is() {
    let sim = sim().args(&FAST).start();
    let gateway = gateway().upstream("gpu0", &sim.url()).user("ann", "free").start();
    gateway.home().set_password("ann", "correct horse battery staple");
    let walk = |password: &str| {
        let mut command = gateway.home().command(&["doctor", "--url", &gateway.url(), "--json"]);
        command.env("USHER_KEY", gateway.key("ann")).env("USHER_USER", "ann");
        let output = command.env("USHER_PASSWORD", password).output().expect("the binary runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("battery"), "{report}");
        report
    };
    let report = walk("correct horse battery staple");
    assert_eq!(outcomes(&report), [true; 9], "{report}");
    assert_eq!(report["walk"][6]["outcome"], "200");
    assert_eq!(report["walk"][7]["outcome"], "200: ann");
    assert_eq!(report["walk"][8]["outcome"], "403 for tier free");
    let report = walk("wrong horse battery staple");
    assert_eq!(outcomes(&report)[6..], [false, false, true], "{report}");
}

#[test]
fn a_role_is_tried_where_administration_is() {
    let sim = sim().args(&FAST).start();
    let admin = "admin: { address: '127.0.0.1:0' }";
    let gateway = gateway().upstream("gpu0", &sim.url()).config(admin).start();
    let home = gateway.home().path();
    let written = std::fs::read_to_string(home.join("usher.yaml")).expect("it is ours");
    // as if the ports had been chosen by its operator
    let known = written
        .replace("address: 127.0.0.1:0", &format!("address: {}", gateway.address()))
        .replace("address: '127.0.0.1:0'", &format!("address: {}", gateway.own_door()));
    let known_file = home.join("known.yaml");
    std::fs::write(&known_file, known).expect("it is ours");
    let walk = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(["doctor", "--json"]).args(more).arg("-c").arg(&known_file);
        let output = command.env("USHER_KEY", gateway.key("admin")).output();
        let report: Value =
            serde_json::from_slice(&output.expect("the binary runs").stdout).expect("JSON");
        assert_eq!(outcomes(&report), [true; 9], "{report}");
        report["walk"][8]["outcome"].as_str().expect("a text").to_owned()
    };
    assert_eq!(walk(&[]), "200 for tier admin");
    let elsewhere = walk(&["--url", &gateway.url()]);
    assert!(elsewhere.starts_with("not tried: admin has an address of its own"), "{elsewhere}");
}

#[test]
fn what_endangers_the_box_is_a_warning() {
    let sim = sim().args(&FAST).args(&["--ollama-version", "0.9.6"]).start();
    let dead = "http://127.0.0.1:1";
    let gateway = gateway().upstream("gpu0", &sim.url()).upstream("gpu1", dead).start();
    let secret = gateway.home().path().join("state/jwt_secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    let (report, text, code) = doctor(&gateway, gateway.key("admin"));
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("gpu0 is Ollama 0.9.6, older than 0.17.1"), "{warnings}");
    assert!(warnings.contains("jwt_secret can be read by everybody"), "{warnings}");
    assert!(report["upstreams"][1]["error"].to_string().contains("does not answer"), "{report}");
    assert_eq!(code, Some(0), "warnings are no failures: {text}");
}

#[test]
fn an_instance_that_others_can_reach_is_a_warning() {
    // port 0 on every address: nobody else can name it before the test does
    let open = std::net::TcpListener::bind("0.0.0.0:0").expect("a port is free");
    let port = open.local_addr().expect("it is bound").port();
    let outward = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // sends nothing: it only asks which address a packet would leave from
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Ok(outward) = outward.map(|address| address.ip()) else { return };
    if outward.is_loopback() {
        return;
    }
    std::thread::spawn(move || {
        for stream in open.incoming().map_while(Result::ok) {
            use std::io::{Read as _, Write as _};
            let mut stream = stream;
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
    });
    let home = gateway().upstream("gpu0", &format!("http://127.0.0.1:{port}")).home();
    home.usher_json(&["init"]);
    let output = home.command(&["doctor", "--json"]).output().expect("the binary runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains(&format!("gpu0 answers at {outward}:{port} too")), "{warnings}");
    assert_eq!(output.status.code(), Some(1), "no gateway runs there");
}
