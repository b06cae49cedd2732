//! Passwords: hashed slowly, on a few threads of their own that give way to all other work.
//!
//! A flood of logins fills a short queue and is turned away behind it: it gets neither memory nor
//! the processor time that requests want. An unknown user costs exactly what a wrong password
//! does, one hash with the same parameters, so that time tells nothing about who exists.

mod hashing;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio::sync::oneshot;
use tokio::time::timeout;
use zeroize::Zeroizing;

use hashing::{Checked, check};
pub use hashing::{HashFailed, hash_now};

/// Bytes of a password that may be set; longer ones are refused unhashed, wherever they appear.
pub const LENGTH: std::ops::RangeInclusive<usize> = 12..=1024;

/// Passwords that wait for a thread; more are turned away.
const QUEUE: usize = 16;
/// Whoever has waited longer for a thread is turned away.
const PATIENCE: Duration = Duration::from_secs(1);
/// Threads that hash, at most: each takes 19 MiB while it does.
const MOST_THREADS: usize = 4;
/// As far behind all others as the system goes.
const PRIORITY: i32 = 19;

/// A password in the clear: wiped when dropped; Debug shows nothing of it.
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a password over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Whether it may be set.
    ///
    /// # Errors
    /// [`Unfit`] if it is too short to be safe, or too long to be hashed.
    pub fn fit(&self) -> Result<(), Unfit> {
        match self.0.len() {
            length if length < *LENGTH.start() => Err(Unfit::TooShort),
            _ => self.bounded(),
        }
    }

    /// Whether it is short enough to be hashed at all.
    ///
    /// # Errors
    /// [`Unfit::TooLong`]
    pub fn bounded(&self) -> Result<(), Unfit> {
        if self.0.len() > *LENGTH.end() { Err(Unfit::TooLong) } else { Ok(()) }
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // what serde says of another type shows the value
        String::deserialize(from).map(Self::new).map_err(|_| D::Error::custom("must be text"))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// Why a password cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It could be guessed.
    #[error("a password has at least {} bytes", LENGTH.start())]
    TooShort,
    /// Hashing it would take a while.
    #[error("a password has at most {} bytes", LENGTH.end())]
    TooLong,
}

/// What came of comparing a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one.
    Right {
        /// Whether its hash is weaker than those made today, so that it should be made anew.
        outdated: bool,
    },
    /// It is not, or there is none.
    Wrong,
}

/// Why nothing came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHashed {
    /// Too many passwords wait.
    #[error("too many passwords wait to be hashed")]
    Busy,
    /// Hashing failed: no memory, no randomness.
    #[error("hashing a password failed")]
    Failed,
}

/// The threads that hash.
#[derive(Clone)]
pub struct Passwords {
    queue: SyncSender<Job>,
    hashed: Arc<AtomicU64>,
}

impl Passwords {
    /// Starts the threads; they end with the last of these handles.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads((cores / 2).clamp(1, MOST_THREADS))
    }

    fn with_threads(count: usize) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..count {
            let jobs = Arc::clone(&jobs);
            let thread = thread::Builder::new().name("usher-hash".to_owned());
            thread.spawn(move || work(&jobs))?;
        }
        Ok(Self { queue, hashed: Arc::default() })
    }

    /// Compares a password with a stored hash, or with nobody's if there is none: both take one
    /// hash.
    ///
    /// # Errors
    /// [`NotHashed`], never a verdict.
    pub async fn verify(
        &self,
        password: &Arc<Password>,
        stored: Option<String>,
    ) -> Result<Verdict, NotHashed> {
        let password = Arc::clone(password);
        self.have(move || check(password.bytes(), stored.as_deref())).await.map(|checked| {
            match checked {
                Checked { right: true, outdated } => Verdict::Right { outdated },
                Checked { right: false, .. } => Verdict::Wrong,
            }
        })
    }

    /// Hashes a password for keeping, as a PHC string.
    ///
    /// # Errors
    /// [`NotHashed`]
    pub async fn hash(&self, password: &Arc<Password>) -> Result<String, NotHashed> {
        let password = Arc::clone(password);
        self.have(move || hash_now(&password)).await
    }

    /// How many hashes were made so far.
    pub fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }

    /// Has a thread do this, if one can soon.
    async fn have<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> Result<T, HashFailed> + Send + 'static,
    ) -> Result<T, NotHashed> {
        let (answer, mut answered) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let (hashed, begins) = (Arc::clone(&self.hashed), Arc::clone(&begun));
        let job: Job = Box::new(move || {
            begins.store(true, Ordering::Relaxed);
            // whoever asked may have left, or lost patience
            if answer.is_closed() {
                return;
            }
            let done = act();
            hashed.fetch_add(1, Ordering::Relaxed);
            let _ = answer.send(done.map_err(|HashFailed| NotHashed::Failed));
        });
        self.queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => NotHashed::Busy,
            TrySendError::Disconnected(_) => NotHashed::Failed,
        })?;
        let done = match timeout(PATIENCE, &mut answered).await {
            Ok(done) => done,
            Err(_) if begun.load(Ordering::Relaxed) => answered.await,
            Err(_) => return Err(NotHashed::Busy),
        };
        done.unwrap_or(Err(NotHashed::Failed))
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// What a thread does for as long as there is somebody to ask it.
fn work(jobs: &Mutex<Receiver<Job>>) {
    // Linux counts priorities by thread. Where it is not allowed, logins cost a little more.
    if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
        log::debug!("passwords are hashed at the usual priority: {error}");
    }
    loop {
        let job = jobs.lock().recv();
        let Ok(job) = job else { return };
        // whoever waits for it is told by the end of the channel
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn password(text: &str) -> Arc<Password> {
        Arc::new(Password::new(text.to_owned()))
    }

    #[test]
    fn passwords_have_12_to_1024_bytes() {
        for (length, fit) in [
            (0, Err(Unfit::TooShort)),
            (11, Err(Unfit::TooShort)),
            (12, Ok(())),
            (1024, Ok(())),
            (1025, Err(Unfit::TooLong)),
        ] {
            let password = Password::new("x".repeat(length));
            assert_eq!(password.fit(), fit, "{length}");
            assert_eq!(password.bounded().is_ok(), length <= 1024);
        }
        assert_eq!(Password::new("é".repeat(6)).fit(), Ok(()), "bytes, not characters");
        assert_eq!(Unfit::TooShort.to_string(), "a password has at least 12 bytes");
        assert_eq!(Unfit::TooLong.to_string(), "a password has at most 1024 bytes");
    }

    #[test]
    fn debug_shows_nothing_of_a_password() {
        let read: Password = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(format!("{read:?}"), "Password");
        assert_eq!(read.bytes(), b"hunter2");
    }

    #[tokio::test]
    async fn a_password_is_right_against_its_own_hash_alone() {
        let passwords = Passwords::with_threads(1).unwrap();
        let (mine, other) = (password("correct horse battery"), password("correct horse batterz"));
        let stored = passwords.hash(&mine).await.unwrap();
        let verdict = passwords.verify(&mine, Some(stored.clone())).await;
        assert_eq!(verdict, Ok(Verdict::Right { outdated: false }));
        assert_eq!(passwords.verify(&other, Some(stored)).await, Ok(Verdict::Wrong));
    }

    #[tokio::test]
    async fn every_question_costs_one_hash_whoever_is_asked_about() {
        let passwords = Passwords::with_threads(1).unwrap();
        let password = password("correct horse battery");
        let stored = passwords.hash(&password).await.unwrap();
        for stored in [None, Some(stored), Some("damaged".to_owned()), Some(String::new())] {
            let before = passwords.hashed();
            passwords.verify(&password, stored.clone()).await.unwrap();
            assert_eq!(passwords.hashed(), before + 1, "{stored:?}");
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_in_the_queue_is_turned_away_at_once() {
        let passwords = Passwords::with_threads(1).unwrap();
        let (busy, free) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (began, may_end) = (Arc::clone(&busy), Arc::clone(&free));
        let first = tokio::spawn({
            let passwords = passwords.clone();
            async move {
                let held = move || {
                    began.wait();
                    may_end.wait();
                    Ok(())
                };
                passwords.have(held).await
            }
        });
        tokio::task::spawn_blocking(move || busy.wait()).await.unwrap();
        let mut waiting: Vec<_> = (0..QUEUE).map(|_| Box::pin(passwords.have(|| Ok(())))).collect();
        for waiting in &mut waiting {
            assert!(futures_util::poll!(waiting).is_pending(), "there is a place for it");
        }
        assert_eq!(passwords.have(|| Ok(())).await, Err(NotHashed::Busy));
        tokio::task::spawn_blocking(move || free.wait()).await.unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        for waiting in waiting {
            assert_eq!(waiting.await, Ok(()));
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_thread_for_a_second_is_turned_away_and_costs_no_hash() {
        let passwords = Passwords::with_threads(1).unwrap();
        let (held, may_end) = sync_channel::<()>(0);
        let first = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.have(move || may_end.recv().map_err(|_| HashFailed)).await }
        });
        tokio::task::yield_now().await;
        let begun = std::time::Instant::now();
        assert_eq!(passwords.have(|| Ok(())).await, Err(NotHashed::Busy));
        let waited = begun.elapsed();
        assert!((PATIENCE..PATIENCE * 3).contains(&waited), "{waited:?}");
        held.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()), "what has begun is waited for, however long");
        assert_eq!(passwords.have(|| Ok(())).await, Ok(()));
        assert_eq!(passwords.hashed(), 2, "the one between them was left");
    }

    #[tokio::test]
    async fn a_hash_that_panics_takes_no_thread_with_it() {
        let passwords = Passwords::with_threads(1).unwrap();
        let lost = passwords.have::<()>(|| panic!("as it was told")).await;
        assert_eq!(lost, Err(NotHashed::Failed));
        assert_eq!(passwords.have(|| Err::<(), _>(HashFailed)).await, Err(NotHashed::Failed));
        assert_eq!(passwords.have(|| Ok(7)).await, Ok(7));
    }

    #[test]
    fn the_threads_run_behind_all_others() {
        let passwords = Passwords::with_threads(1).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let priority = passwords.have(|| Ok(rustix::process::getpriority_process(None).unwrap()));
        assert_eq!(runtime.block_on(priority), Ok(PRIORITY));
        assert_ne!(rustix::process::getpriority_process(None).unwrap(), PRIORITY);
    }
}
