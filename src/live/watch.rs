//! Notices that the configuration file has changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Watches one file, by looking: notifications of the kernel do not cross every file system, and
/// follow the file rather than its name, while editors put a new file in its place.
pub struct FileWatch {
    path: PathBuf,
    settled: Option<Look>,
}

/// What tells one state of a file from another; `None` is a file that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileWatch {
    /// Watches for changes from now on.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), settled: look(path) }
    }

    /// Waits until the file has changed and then stayed the same for one look, since whoever writes
    /// it may not be done. A file that is gone is no change: it may be about to be replaced. Safe to
    /// cancel.
    pub async fn changed(&mut self) {
        let mut last = self.settled.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look(&self.path);
            if now.is_some() && now != self.settled && now == last {
                self.settled = now;
                return;
            }
            last = now;
        }
    }

    /// Takes the file as it is now for known.
    pub fn settle(&mut self) {
        self.settled = look(&self.path);
    }
}

fn look(path: &Path) -> Option<Look> {
    let it = std::fs::metadata(path).ok()?;
    Some(Look {
        device: it.dev(),
        inode: it.ino(),
        size: it.size(),
        modified: (it.mtime(), it.mtime_nsec()),
        changed: (it.ctime(), it.ctime_nsec()),
    })
}
