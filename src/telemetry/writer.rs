//! Standard error, without ever waiting for it.
//!
//! A pipe that nobody reads stops whoever writes to it, and with a logger in between that is every
//! request. So lines go into a bounded queue that one thread empties; what finds no room is
//! dropped and counted.

use std::fmt;
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
/// Bytes that are written at once.
const BATCH: usize = 32 * 1024;
/// Room for a usual line.
const USUAL: usize = 640;

/// How long the thread rests when it has written everything, for each line that it wrote last.
/// Waking it costs more than a line does, so under load it looks for lines itself, many at a time.
const REST: Duration = Duration::from_millis(1);
/// No more lines than these count: ten milliseconds are the longest rest.
const RESTED_FOR: u32 = 10;

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
    Line(Vec<u8>),
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
        let batch = Vec::with_capacity(BATCH);
        let writer = Writer { out, orders, tally: Arc::clone(&tally), batch, lines: 0, told: 0 };
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

    /// Takes a line without its end, or drops it.
    pub(super) fn take(&self, text: fmt::Arguments<'_>) {
        let mut line = String::with_capacity(USUAL);
        // memory takes whatever is written to it
        let _ = fmt::Write::write_fmt(&mut line, text);
        line.push('\n');
        self.push(line.into_bytes());
    }

    fn push(&self, line: Vec<u8>) {
        let length = line.len();
        let waiting = self.tally.waiting.fetch_add(length, Ordering::Relaxed);
        if waiting > BYTES || self.sender.try_send(Order::Line(line)).is_err() {
            self.tally.waiting.fetch_sub(length, Ordering::Relaxed);
            self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Write for Lines {
    /// Takes the whole line or drops it: never blocks, never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
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
    /// Lines that were taken off the queue and not yet written.
    batch: Vec<u8>,
    /// How many they are.
    lines: u32,
    /// Dropped lines that the log has told of.
    told: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        while let Some(order) = self.next() {
            match order {
                Order::Line(line) => {
                    self.batch.extend_from_slice(&line);
                    self.lines += 1;
                    if self.batch.len() >= BATCH {
                        self.write();
                    }
                }
                Order::Tell(done) => {
                    self.write();
                    let _ = self.out.flush();
                    // whoever asked may have lost patience
                    let _ = done.try_send(());
                }
            }
        }
    }

    fn next(&mut self) -> Option<Order> {
        loop {
            match self.orders.try_recv() {
                Ok(order) => return Some(order),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.batch.is_empty() => {
                    self.confess();
                    return self.orders.recv().ok();
                }
                Err(TryRecvError::Empty) => {
                    let lines = self.write();
                    thread::sleep(REST * lines.min(RESTED_FOR));
                }
            }
        }
    }

    /// Writes what waits, and says how many lines that were.
    fn write(&mut self) -> u32 {
        let lines = std::mem::take(&mut self.lines);
        if self.out.write_all(&self.batch).is_err() {
            self.tally.dropped.fetch_add(lines.into(), Ordering::Relaxed);
        }
        self.tally.waiting.fetch_sub(self.batch.len(), Ordering::Relaxed);
        self.batch.clear();
        lines
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
        let (written, pieces) = channel();
        let mut log = Lines::start(Gated { gate: Arc::clone(&gate), written }).unwrap();
        let blocked = gate.lock();
        // a batch is in the writer's hands, the queue is full, and there are more
        let all = 4 * LINES;
        for number in 0..all {
            log.write_all(format!("{number:010}\n").as_bytes()).unwrap();
        }
        let dropped = log.dropped().load(Ordering::Relaxed);
        assert!(dropped > 0);
        drop(blocked);
        let mut text = String::new();
        while !text.ends_with("in time\n") {
            text += &pieces.recv().unwrap();
        }
        assert!(text.contains(&format!(" {dropped} log lines were dropped")), "{text}");
        let kept: Vec<usize> = text.lines().map_while(|line| line.parse().ok()).collect();
        assert_eq!(kept.len() as u64 + dropped, all as u64, "a line is written or counted");
        assert!(kept.is_sorted() && kept.first() == Some(&0));
    }

    #[test]
    fn a_line_of_the_access_log_ends_where_the_next_begins() {
        let (written, pieces) = channel();
        let log = Lines::start(Gated { gate: Arc::default(), written }).unwrap();
        log.take(format_args!("{}", 1));
        log.take(format_args!("two"));
        log.settle(Duration::from_secs(10));
        assert_eq!(pieces.try_iter().collect::<String>(), "1\ntwo\n");
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
