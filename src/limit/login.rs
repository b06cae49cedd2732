//! Attempts to log in, by address: so many in any window of time, counted before anything is
//! hashed.
//!
//! A log of recent attempts decides exactly, for as many addresses as it has room for. Those that
//! find it full are judged by `pingora-limits`' sketch, whose memory does not grow. The sketch
//! never counts too little, but it takes some innocent for one that shares all its cells, and its
//! windows are fixed: two of them in a row count together here, so that nobody gets twice the
//! limit at their seam. It is touched under a lock, because two threads that begin a new window at
//! once would lose what both had counted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_limits::rate::Rate as Sketch;

use crate::config::Rate;

/// Attempts that the log holds: a few megabytes.
const ROOM: usize = 100_000;
/// Attempts of one address that others are told of, should they have forgotten them.
const MOST_TOLD: usize = 32;
/// Rows and columns of the sketch, twice 3 MiB: while 10,000 others attack, an innocent shares all
/// its cells with some of them in 8 of a million cases.
const SKETCH: (usize, usize) = (6, 65_536);

/// The attempts at all gateways together.
#[async_trait]
pub trait SharedAttempts: Send + Sync + 'static {
    /// Counts an attempt from this address if it is within the limit; else says when the next may
    /// be. `own` are those that this gateway has allowed lately, this one last. `None`: nobody
    /// can be asked, and what this gateway counts itself has to do.
    async fn attempt(
        &self,
        from: IpAddr,
        limit: Rate,
        own: &[Instant],
    ) -> Option<Result<(), Duration>>;
}

/// Counts attempts.
#[derive(Default)]
pub struct Attempts {
    here: LoginLimit,
    everywhere: Option<Arc<dyn SharedAttempts>>,
    /// Allowed here, and not yet by the others.
    asked: Mutex<HashSet<(IpAddr, Instant)>>,
}

/// An attempt that others are asked about, however the asking ends.
struct Asked<'a> {
    attempts: &'a Attempts,
    attempt: (IpAddr, Instant),
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.attempts.asked.lock().remove(&self.attempt);
    }
}

impl Attempts {
    /// Counts together with other gateways.
    pub fn shared(everywhere: Arc<dyn SharedAttempts>) -> Self {
        Self { everywhere: Some(everywhere), ..Self::default() }
    }

    /// Counts an attempt from this address (of a network, where clients own networks).
    ///
    /// # Errors
    /// The time after which the next attempt may be allowed; this one is not counted.
    pub async fn attempt(&self, from: IpAddr, limit: Rate, now: Instant) -> Result<(), Duration> {
        // the floor that holds whatever others say, or do not
        let mut own = self.here.attempt(from, limit, now)?;
        let Some(everywhere) = &self.everywhere else { return Ok(()) };
        let asked = self.ask(from, now);
        // those that others may still refuse are not told of as allowed
        {
            let pending = self.asked.lock();
            own.retain(|at| *at == now || !pending.contains(&(from, *at)));
        }
        let answer = everywhere.attempt(from, limit, &own).await.unwrap_or(Ok(()));
        if answer.is_err() {
            self.here.withdraw(from, now);
        }
        drop(asked);
        answer
    }

    fn ask(&self, from: IpAddr, at: Instant) -> Asked<'_> {
        self.asked.lock().insert((from, at));
        Asked { attempts: self, attempt: (from, at) }
    }
}

/// Counts attempts at this gateway.
struct LoginLimit(Mutex<Counts>);

struct Counts {
    log: Log,
    sketch: Sketch,
    /// What the sketch was made for.
    window: Duration,
    /// When an address last found the log full: what the sketch knows is older than that.
    overflowed: Option<Instant>,
}

impl Default for LoginLimit {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl LoginLimit {
    fn with_room(room: usize) -> Self {
        let window = Duration::from_secs(60);
        Self(Mutex::new(Counts {
            log: Log::new(room),
            sketch: sketch(window),
            window,
            overflowed: None,
        }))
    }

    /// Counts an attempt. Returns those of the address that the log has, this one last.
    fn attempt(&self, from: IpAddr, limit: Rate, now: Instant) -> Result<Vec<Instant>, Duration> {
        let window = limit.per.duration();
        let most = usize::try_from(limit.amount.get()).unwrap_or(usize::MAX);
        let counts = &mut *self.0.lock();
        if counts.window != window {
            counts.sketch = sketch(window);
            counts.window = window;
        }
        counts.log.forget(now, window);
        if !counts.log.holds(from) {
            if !counts.log.has_room(most) {
                counts.overflowed = Some(now);
                return counts.ask_sketch(from, most).map(|()| vec![now]);
            }
            counts.remember_from_sketch(from, most, now);
        }
        counts.log.attempt(from, most, now, window)?;
        Ok(counts.log.newest_of(from))
    }

    /// An attempt was none, because another gateway knew of more.
    fn withdraw(&self, from: IpAddr, at: Instant) {
        self.0.lock().log.withdraw(from, at);
    }
}

fn sketch(window: Duration) -> Sketch {
    Sketch::new_with_estimator_config(window, SKETCH.0, SKETCH.1)
}

impl Counts {
    fn ask_sketch(&self, from: IpAddr, most: usize) -> Result<(), Duration> {
        if self.estimate(from) >= most {
            return Err(self.window);
        }
        self.sketch.observe(&from, 1);
        Ok(())
    }

    /// What an address did before there was room for it in the log.
    fn remember_from_sketch(&mut self, from: IpAddr, most: usize, now: Instant) {
        let recent = |at: Instant| now.saturating_duration_since(at) < self.window * 2;
        if self.overflowed.is_some_and(recent) {
            for _ in 0..self.estimate(from).min(most) {
                self.log.note(from, now);
            }
        }
    }

    /// At most how many attempts of this window and the one before were this address's.
    fn estimate(&self, from: IpAddr) -> usize {
        let both = self.sketch.rate_with(&from, |seen| seen.prev_samples + seen.curr_samples);
        usize::try_from(both).unwrap_or(usize::MAX)
    }
}

/// Every attempt of the last window, of a bounded number of addresses.
struct Log {
    by_address: HashMap<IpAddr, VecDeque<Instant>>,
    /// All of them, oldest first.
    in_order: VecDeque<(Instant, IpAddr)>,
    room: usize,
}

impl Log {
    fn new(room: usize) -> Self {
        Self { by_address: HashMap::new(), in_order: VecDeque::new(), room }
    }

    /// Forgets what is older than the window.
    fn forget(&mut self, now: Instant, window: Duration) {
        while let Some((at, from)) = self.in_order.front().copied()
            && now.saturating_duration_since(at) >= window
        {
            self.in_order.pop_front();
            if let Some(attempts) = self.by_address.get_mut(&from) {
                attempts.pop_front();
                if attempts.is_empty() {
                    self.by_address.remove(&from);
                }
            }
        }
    }

    fn holds(&self, from: IpAddr) -> bool {
        self.by_address.contains_key(&from)
    }

    /// Whether all that one more address may do fits in.
    fn has_room(&self, most: usize) -> bool {
        (self.by_address.len() + 1).saturating_mul(most) <= self.room
    }

    fn attempt(
        &mut self,
        from: IpAddr,
        most: usize,
        now: Instant,
        window: Duration,
    ) -> Result<(), Duration> {
        if let Some(attempts) = self.by_address.get(&from)
            && attempts.len() >= most
            // the limit may have become smaller since: all but the newest `most` must be gone
            && let Some(oldest) = attempts.get(attempts.len() - most)
        {
            return Err((*oldest + window).saturating_duration_since(now));
        }
        self.note(from, now);
        Ok(())
    }

    /// The newest attempts of an address, oldest first.
    fn newest_of(&self, from: IpAddr) -> Vec<Instant> {
        let attempts = self.by_address.get(&from);
        let newest = attempts.map(|all| all.range(all.len().saturating_sub(MOST_TOLD)..).copied());
        newest.into_iter().flatten().collect()
    }

    fn withdraw(&mut self, from: IpAddr, at: Instant) {
        let Some(attempts) = self.by_address.get_mut(&from) else { return };
        let Some(place) = attempts.iter().rposition(|other| *other == at) else { return };
        attempts.remove(place);
        if attempts.is_empty() {
            self.by_address.remove(&from);
        }
        if let Some(place) = self.in_order.iter().rposition(|other| *other == (at, from)) {
            self.in_order.remove(place);
        }
    }

    fn note(&mut self, from: IpAddr, now: Instant) {
        self.by_address.entry(from).or_default().push_back(now);
        self.in_order.push_back((now, from));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn five_in_any_minute_and_the_sixth_hears_when_to_come_again() {
        let limit = LoginLimit::default();
        let start = Instant::now();
        let attempt =
            |second| limit.attempt(address(1), rate("5/min"), start + seconds(second)).map(drop);
        for second in [0, 10, 20, 30, 40] {
            assert_eq!(attempt(second), Ok(()));
        }
        assert_eq!(attempt(40), Err(seconds(20)));
        assert_eq!(attempt(59), Err(seconds(1)));
        assert_eq!(attempt(60), Ok(()), "the first one is a minute ago");
        assert_eq!(attempt(60), Err(seconds(10)), "what was refused did not count");
        assert_eq!(attempt(70), Ok(()));
        assert!(limit.attempt(address(2), rate("5/min"), start + seconds(60)).is_ok());
    }

    #[test]
    fn a_limit_that_was_changed_holds_at_once() {
        let limit = LoginLimit::default();
        let start = Instant::now();
        for second in 0..5 {
            assert!(limit.attempt(address(1), rate("5/min"), start + seconds(second)).is_ok());
        }
        let now = start + seconds(10);
        assert_eq!(limit.attempt(address(1), rate("2/min"), now), Err(seconds(53)));
        assert!(limit.attempt(address(1), rate("6/min"), now).is_ok());
        assert_eq!(limit.attempt(address(1), rate("6/h"), now), Err(seconds(3590)));
        assert_eq!(limit.0.lock().window, seconds(3600));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let limit = LoginLimit::default();
        let start = Instant::now();
        for number in 0..1000 {
            assert!(limit.attempt(address(number), rate("5/min"), start).is_ok());
        }
        assert!(limit.attempt(address(5000), rate("5/min"), start + MINUTE).is_ok());
        let counts = limit.0.lock();
        assert_eq!((counts.log.by_address.len(), counts.log.in_order.len()), (1, 1));
    }

    /// The usual limiter, beside it one that must make do with the sketch.
    fn refused_innocents(limit: &LoginLimit) -> usize {
        let start = Instant::now();
        for _ in 0..20 {
            for attacker in 0..10_000 {
                let _ = limit.attempt(address(attacker), rate("5/min"), start);
            }
        }
        let innocents = (0..10_000).map(|number| address(0x0a00_0000 + number));
        innocents.filter(|from| limit.attempt(*from, rate("5/min"), start).is_err()).count()
    }

    #[test]
    fn while_ten_thousand_attack_hardly_an_innocent_is_refused() {
        assert_eq!(refused_innocents(&LoginLimit::default()), 0, "the log has room for all");
        let refused = refused_innocents(&LoginLimit::with_room(0));
        assert!(refused < 10, "{refused} of 10,000 refused by the sketch alone");
    }

    #[test]
    fn an_address_that_finds_the_log_full_is_limited_all_the_same() {
        let limit = LoginLimit::with_room(5);
        let start = Instant::now();
        let attempt = |number, second| {
            limit.attempt(address(number), rate("5/min"), start + seconds(second)).is_ok()
        };
        assert!(attempt(1, 0), "there is room for one");
        let allowed = (0..100).filter(|_| attempt(2, 1)).count();
        assert_eq!(allowed, 5);
        assert!(!attempt(2, 60), "the log has room again, and knows what the sketch has seen");
        assert!(attempt(2, 121), "what the sketch knows is older than that");
    }

    /// Others who refuse from the third attempt on, and remember what they were told.
    #[derive(Default)]
    struct Others(Mutex<Vec<usize>>);

    #[async_trait]
    impl SharedAttempts for Others {
        async fn attempt(
            &self,
            _: IpAddr,
            _: Rate,
            own: &[Instant],
        ) -> Option<Result<(), Duration>> {
            let mut told = self.0.lock();
            told.push(own.len());
            match told.len() {
                ..3 => Some(Ok(())),
                3..6 => Some(Err(seconds(7))),
                _ => None,
            }
        }
    }

    #[tokio::test]
    async fn what_others_refuse_does_not_count_here_and_without_them_the_own_count_holds() {
        let others = Arc::new(Others::default());
        let logins = Attempts::shared(Arc::clone(&others) as _);
        let start = Instant::now();
        let attempt = |second| logins.attempt(address(1), rate("5/min"), start + seconds(second));
        let mut outcomes = Vec::new();
        for second in 0..10 {
            outcomes.push(attempt(second).await);
        }
        let (yes, no) = (Ok(()), Err(seconds(7)));
        assert_eq!(outcomes[..5], [yes, yes, no, no, no]);
        assert_eq!(outcomes[5..8], [yes, yes, yes], "nobody can be asked, and two were counted");
        assert!(outcomes[8].is_err() && outcomes[9].is_err(), "never more than here");
        assert_eq!(*others.0.lock(), [1, 2, 3, 3, 3, 3, 4, 5]);
        assert_eq!(logins.here.0.lock().log.in_order.len(), 5);
    }

    #[test]
    fn the_log_never_grows_beyond_its_room() {
        let limit = LoginLimit::with_room(100);
        let start = Instant::now();
        for number in 0..5_000 {
            let _ = limit.attempt(address(number % 700), rate("5/min"), start);
        }
        let counts = limit.0.lock();
        assert!(counts.log.by_address.len() <= 20 && counts.log.in_order.len() <= 100);
    }

    proptest! {
        #[test]
        fn no_address_gets_more_than_its_limit_in_any_window(
            gaps in proptest::collection::vec((0_u64..20, 0_u32..3), 0..80),
        ) {
            let limit = LoginLimit::default();
            let mut now = Instant::now();
            let mut allowed: HashMap<u32, Vec<Instant>> = HashMap::new();
            for (gap, number) in gaps {
                now += seconds(gap);
                let mine = allowed.entry(number).or_default();
                let recent = mine.iter().filter(|at| now.duration_since(**at) < MINUTE).count();
                let outcome = limit.attempt(address(number), rate("3/min"), now);
                prop_assert_eq!(outcome.is_ok(), recent < 3, "exactly, no more and no fewer");
                match outcome {
                    Ok(own) => {
                        mine.push(now);
                        prop_assert_eq!(own.last(), Some(&now));
                    }
                    Err(wait) => prop_assert!(wait > Duration::ZERO && wait <= MINUTE),
                }
            }
        }
    }
}
