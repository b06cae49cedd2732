//! Files and directories that are nobody else's business.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const OWNER_ONLY: u32 = 0o600;

/// Creates `dir` and its missing parents with mode 0700; one that exists stays as it is.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Creates `path` with mode 0600 and `content`, whole or not at all, and says whether it did:
/// a file that is there already, even one that another process made meanwhile, is left alone.
///
/// The content is written beside `path`, under a lock, and moved into place when it is on disk.
/// A process that dies half way leaves only a draft, which the next one writes again.
pub fn create_secret_file(path: &Path, content: &str) -> io::Result<bool> {
    if path.try_exists()? {
        return Ok(false);
    }
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(OWNER_ONLY)
        .open(&draft)?;
    file.lock()?;
    if path.try_exists()? {
        // another process moved its draft into place while this one waited; a draft that still
        // has a name is then this process's own
        fs::remove_file(&draft).or_else(absent_is_fine)?;
        return Ok(false);
    }
    file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    file.set_len(0)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_parent(path)?;
    Ok(true)
}

/// Makes sure that the database file exists and is its owner's alone, *before* SQLite opens it:
/// SQLite would create it by the umask, and gives its `-wal` and `-shm` files the same mode.
pub(super) fn prepare_database_file(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        create_private_dir(dir)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path) {
        Ok(_) => sync_parent(path),
        // never opened here: closing a file drops all of SQLite's own locks on it
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => tighten(path),
        Err(error) => Err(error),
    }
}

fn tighten(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(OWNER_ONLY))
}

/// A new name survives a power cut only once its directory is on disk.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => File::open(dir)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_file_is_created_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(create_secret_file(&path, "first").unwrap());
        assert!(!create_secret_file(&path, "second").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn the_draft_of_a_process_that_died_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(dir.path().join("secret.new"), "half of a longer secr").unwrap();
        assert!(create_secret_file(&path, "whole").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn of_many_at_once_one_creates_the_secret_and_all_see_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = &dir.path().join("secret");
        let contents: Vec<String> = (0..16).map(|n| n.to_string().repeat(1000)).collect();
        let winners: Vec<&String> = std::thread::scope(|scope| {
            let attempts: Vec<_> = contents
                .iter()
                .map(|c| scope.spawn(move || create_secret_file(path, c).unwrap().then_some(c)))
                .collect();
            attempts.into_iter().filter_map(|a| a.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(&fs::read_to_string(path).unwrap(), winners[0]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn an_existing_database_file_that_others_could_read_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/usher.db");
        prepare_database_file(&path).unwrap();
        assert_eq!((mode(&path), mode(&dir.path().join("deep"))), (0o600, 0o700));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        prepare_database_file(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }
}
