//! What `make install` puts where, and what systemd thinks of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn run(program: &str, arguments: &[&str]) -> Output {
    let ran = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("MAKEFLAGS")
        .output();
    ran.unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let (out, err) = (&output.stdout, &output.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{program} {arguments:?}:\n{said}");
    said
}

fn install(into: &Path, prefix: &str) {
    let destination = format!("DESTDIR={}", into.display());
    let binary = format!("BINARY={}", env!("CARGO_BIN_EXE_usher"));
    must("make", &["install", &destination, &binary, &format!("PREFIX={prefix}")]);
}

fn mode(path: &Path) -> u32 {
    let metadata = std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    metadata.permissions().mode() & 0o777
}

#[test]
fn make_install_puts_everything_in_its_place_and_keeps_a_configuration() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "/opt/usher");
    let at = |path: &str| root.path().join(path);
    assert_eq!(mode(&at("opt/usher/bin/usher")), 0o755);
    assert_eq!(mode(&at("usr/lib/systemd/system/usher.service")), 0o644);
    assert_eq!(mode(&at("usr/lib/sysusers.d/usher.conf")), 0o644);
    assert_eq!(mode(&at("usr/lib/tmpfiles.d/usher.conf")), 0o644);
    let configuration = at("etc/usher/usher.yaml");
    assert_eq!(mode(&configuration), 0o640);
    must(env!("CARGO_BIN_EXE_usher"), &["check", "-c", configuration.to_str().unwrap()]);
    let text = std::fs::read_to_string(&configuration).unwrap();
    assert!(text.contains("\nstate_dir: /var/lib/usher"), "the unit may write nowhere else");
    let unit = std::fs::read_to_string(at("usr/lib/systemd/system/usher.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/usher/bin/usher serve"), "{unit}");
    std::fs::write(&configuration, "mine").unwrap();
    install(root.path(), "/opt/usher");
    assert_eq!(std::fs::read_to_string(&configuration).unwrap(), "mine");
}

#[test]
fn systemd_understands_the_unit_and_finds_it_confined() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "/usr");
    let shipped = root.path().join("usr/lib/systemd/system/usher.service");
    let here = root.path().join("usr/bin/usher");
    // the program is looked for where the unit says; here it is elsewhere
    let unit = std::fs::read_to_string(&shipped).unwrap();
    let unit = unit.replace("/usr/bin/usher", here.to_str().unwrap());
    let copy = root.path().join("usher.service");
    std::fs::write(&copy, unit).unwrap();
    let copy = copy.to_str().unwrap();
    let said = must("systemd-analyze", &["verify", "--man=no", "--recursive-errors=one", copy]);
    assert!(!said.contains("usher.service"), "{said}");
    must("systemd-analyze", &["security", "--offline=yes", "--threshold=15", copy]);
    let users = root.path().join("usr/lib/sysusers.d/usher.conf");
    let users = users.to_str().unwrap();
    let into = format!("--root={}", root.path().display());
    let made = must("systemd-sysusers", &["--dry-run", &into, users]);
    assert!(made.contains("usher"), "{made}");
}
