//! Standard error, without ever waiting for it.
//!
//! A pipe that nobody reads stops whoever writes to it, and with a logger in between that is every
//! request. So lines go into a bounded queue that one thread empties; what finds no room is
//! dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait at most,
const LINES: usize = 4096;
/// and their bytes.
const BYTES: usize = 1 << 20;

/// Takes whole lines; cheap to clone.
#[derive(Clone)]
pub(super) struct Lines {
    sender: SyncSender<Order>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    waiting: AtomicUsize,
    dropped: Arc<AtomicU64>,
}

enum Order {
    Line(Box<[u8]>),
    /// Say when everything before is written.
    Tell(SyncSender<()>),
}

impl Lines {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, orders) = sync_channel(LINES);
        let tally = Arc::new(Tally::default());
        let writer = Writer { out, orders, tally: Arc::clone(&tally), told: 0 };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { sender, tally })
    }

    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.tally.dropped)
    }

    /// Waits until everything is written, but no longer than `patience`.
    pub(super) fn settle(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let (done, written) = sync_channel(1);
        let mut order = Order::Tell(done);
        while let Err(TrySendError::Full(back)) = self.sender.try_send(order) {
            if Instant::now() >= until {
                return;
            }
            order = back;
            thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }

    fn push(&self, line: &[u8]) -> bool {
        let waiting = self.tally.waiting.fetch_add(line.len(), Ordering::Relaxed);
        let pushed = waiting <= BYTES && self.sender.try_send(Order::Line(line.into())).is_ok();
        if !pushed {
            self.tally.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        }
        pushed
    }
}

impl Write for Lines {
    /// Takes the whole line or drops it: never blocks, never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.push(line) {
            self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writer<W> {
    out: W,
    orders: Receiver<Order>,
    tally: Arc<Tally>,
    /// Dropped lines that the log has told of.
    told: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        while let Some(order) = self.next() {
            match order {
                Order::Line(line) => {
                    if self.out.write_all(&line).is_err() {
                        self.tally.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    self.tally.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Order::Tell(done) => {
                    let _ = self.out.flush();
                    // whoever asked may have lost patience
                    let _ = done.try_send(());
                }
            }
        }
    }

    fn next(&mut self) -> Option<Order> {
        match self.orders.try_recv() {
            Ok(order) => Some(order),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                self.confess();
                self.orders.recv().ok()
            }
        }
    }

    /// Everything that waited is written: this is the moment to say what is missing.
    fn confess(&mut self) {
        let dropped = self.tally.dropped.load(Ordering::Relaxed);
        if dropped == self.told {
            return;
        }
        let now = jiff::Timestamp::now();
        let missing = dropped - self.told;
        let said = writeln!(
            self.out,
            "{now:.3} WARN  usher::telemetry {missing} log lines were dropped: nothing read them in time"
        );
        if said.is_ok() {
            self.told = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use parking_lot::{Mutex, MutexGuard};

    use super::*;

    /// Writes nothing while somebody holds the gate.
    struct Gated {
        gate: Arc<Mutex<()>>,
        written: Sender<String>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open: MutexGuard<'_, ()> = self.gate.lock();
            self.written.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_end_holds_nobody_up_and_what_is_missing_is_said_afterwards() {
        let gate = Arc::new(Mutex::new(()));
        let (written, lines) = channel();
        let mut log = Lines::start(Gated { gate: Arc::clone(&gate), written }).unwrap();
        let blocked = gate.lock();
        for number in 0..LINES + 100 {
            log.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        // one line is in the writer's hands, so up to one more found room
        let dropped = log.dropped().load(Ordering::Relaxed);
        assert!((99..=100).contains(&dropped), "{dropped}");
        drop(blocked);
        let kept: Vec<String> = lines.iter().take(LINES + 100 - dropped as usize).collect();
        assert_eq!((&*kept[0], &*kept[LINES - 1]), ("0\n", &*format!("{}\n", LINES - 1)));
        let mut confession = String::new();
        while !confession.ends_with("in time\n") {
            confession += &lines.recv().unwrap();
        }
        assert!(confession.contains(&format!(" {dropped} log lines were dropped")), "{confession}");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let gate = Arc::new(Mutex::new(()));
        let (written, _lines) = channel();
        let mut log = Lines::start(Gated { gate: Arc::clone(&gate), written }).unwrap();
        let blocked = gate.lock();
        for _ in 0..8 {
            log.write_all(&vec![b'x'; BYTES / 2]).unwrap();
        }
        assert!(log.dropped().load(Ordering::Relaxed) >= 5);
        log.settle(Duration::from_millis(20));
        drop(blocked);
    }

    #[test]
    fn settling_waits_for_what_was_written_before() {
        let (written, lines) = channel();
        let mut log = Lines::start(Gated { gate: Arc::default(), written }).unwrap();
        log.write_all(b"last words\n").unwrap();
        log.settle(Duration::from_secs(10));
        assert_eq!(lines.try_recv().unwrap(), "last words\n");
    }
}
