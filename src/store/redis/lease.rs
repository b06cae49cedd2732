//! One account as this gateway knows it: what it was granted, what it used, what others use.
//!
//! Redis is a blackboard: each gateway writes down its own use and what it holds, and reads the sum
//! of the others'. What a gateway wrote it still knows, so a board that was wiped is written anew,
//! and what was used while the board was away is written when it is back. A grant is what makes a
//! request cheap: it is used without asking, and the board counts it as taken meanwhile.
//!
//! Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

/// Stretches of time that a window is cut into, on the board. A stretch counts until its last
/// moment has left the window.
pub(super) const STRETCHES: u64 = 60;
/// A refusal holds this long before the board is asked again: others may have given something back.
const REFUSED: u64 = 250_000;
/// Without the board, this long after it did not answer.
const ALONE: u64 = 1_000_000;
/// What was granted and not used for so long goes back.
const IDLE: u64 = 2_000_000;
/// Others learn of what was used within this time.
const REPORT: u64 = 1_000_000;
/// What is held is told again within this time, or the board takes it for a dead gateway's.
const RENEW: u64 = 20_000_000;
/// No window is longer than a day; whatever the board says of a wait, it is no longer than two.
const LONGEST: u64 = 2 * 86_400_000_000;

/// What a gateway has of an account. Moments are microseconds of a clock that never runs backwards.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Granted, and not used.
    left: u64,
    /// Set aside for answers under way.
    held: u64,
    /// What was used in which stretch of the board's time, oldest first.
    used: VecDeque<(u64, u64)>,
    /// What others have used or hold, as the board last said.
    others: u64,
    /// Until when that may last.
    others_until: u64,
    /// Wanted by those who wait for a grant.
    wanted: u64,
    refusal: Option<Refusal>,
    alone_until: u64,
    last_taken: u64,
    last_told: u64,
    /// Whether there is something that the board does not know.
    untold: bool,
}

/// When the board said no, to how much, and how long it takes until it may say yes.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    at: u64,
    amount: u64,
    wait: u64,
}

/// What a lease says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Yes.
    Granted,
    /// Not before so many microseconds.
    Refused(u64),
    /// The board has to be asked.
    Ask,
}

/// What is told to the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// What is held: set aside, or granted and not used.
    pub outstanding: u64,
    /// What was used in which stretch.
    pub used: Vec<(u64, u64)>,
    /// What is wanted, by all who wait.
    pub wanted: u64,
    /// What is wanted by the one who asks: less is of no use. 0 if nobody does.
    pub amount: u64,
}

/// What the board says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Granted.
    pub granted: u64,
    /// What others have used or hold.
    pub others: u64,
    /// Until what was wanted may be had, microseconds; 0 if it was granted.
    pub wait: u64,
    /// Until what others have used is forgotten, microseconds.
    pub reset: u64,
    /// The board's own time, microseconds.
    pub time: u64,
}

impl Lease {
    /// Takes `amount` of what was granted.
    pub(super) fn take(&mut self, amount: u64, now: u64) -> Answer {
        let answer = self.can_take(amount, now);
        if answer == Answer::Granted {
            self.take_alone(amount, now);
        }
        answer
    }

    /// What [`take`](Self::take) would say.
    pub(super) fn can_take(&self, amount: u64, now: u64) -> Answer {
        match self.refusal {
            _ if self.left >= amount => Answer::Granted,
            Some(no) if amount >= no.amount && now < no.at + REFUSED.min(no.wait) => {
                Answer::Refused((no.at + no.wait).saturating_sub(now))
            }
            _ => Answer::Ask,
        }
    }

    /// Whether the board did not answer a moment ago.
    pub(super) fn is_alone(&self, now: u64) -> bool {
        now < self.alone_until
    }

    /// The board did not answer: for a while, what is used is written down for later.
    pub(super) fn go_alone(&mut self, now: u64) {
        self.alone_until = now.saturating_add(ALONE);
    }

    /// Takes `amount` without asking anybody; what was granted goes first.
    pub(super) fn take_alone(&mut self, amount: u64, now: u64) {
        self.left = self.left.saturating_sub(amount);
        self.last_taken = now;
    }

    /// What was taken was used, in this stretch.
    pub(super) fn spend(&mut self, amount: u64, stretch: u64) {
        match self.used.back_mut() {
            // the board's clock may step back a little
            Some((newest, sum)) if *newest >= stretch => *sum = sum.saturating_add(amount),
            _ => self.used.push_back((stretch, amount)),
        }
        self.untold = true;
    }

    /// What was used was not used after all.
    pub(super) fn unspend(&mut self, amount: u64) {
        let mut rest = amount;
        for (_, sum) in self.used.iter_mut().rev() {
            let part = rest.min(*sum);
            *sum -= part;
            rest -= part;
        }
        self.left = self.left.saturating_add(amount - rest);
        self.untold = true;
    }

    /// What was taken is set aside for an answer.
    pub(super) fn hold(&mut self, amount: u64) {
        self.held = self.held.saturating_add(amount);
    }

    /// An answer is over, which used so much of what was set aside for it.
    pub(super) fn settle(&mut self, held: u64, used: u64, stretch: u64) {
        let held = held.min(self.held);
        self.held -= held;
        self.left = self.left.saturating_add(held.saturating_sub(used));
        if used > 0 {
            self.spend(used, stretch);
        }
    }

    /// Somebody waits for a grant.
    pub(super) fn want(&mut self, amount: u64) {
        self.wanted = self.wanted.saturating_add(amount);
    }

    /// Somebody waits no more.
    pub(super) fn want_no_more(&mut self, amount: u64) {
        self.wanted = self.wanted.saturating_sub(amount);
    }

    /// What others have, and for how many microseconds that may last.
    pub(super) fn others(&self, now: u64) -> (u64, u64) {
        match self.others_until.saturating_sub(now) {
            0 => (0, 0),
            rest => (self.others, rest),
        }
    }

    /// The board has been wiped, or was away: it is to be told everything.
    pub(super) fn forget_told(&mut self) {
        self.untold = true;
        self.last_told = 0;
    }

    /// Whether the board should be told, though nobody wants anything.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let since = now.saturating_sub(self.last_told);
        let idle = self.left > 0 && now.saturating_sub(self.last_taken) >= IDLE;
        let holds = self.left > 0 || self.held > 0;
        (self.untold && since >= REPORT) || idle || (holds && since >= RENEW)
    }

    /// Gives back what nobody has used for a while.
    pub(super) fn give_back_idle(&mut self, now: u64) {
        if self.left > 0 && now.saturating_sub(self.last_taken) >= IDLE {
            self.left = 0;
            self.untold = true;
        }
    }

    /// Whether there is nothing to remember: `stretch` is the board's current one.
    pub(super) fn is_idle(&mut self, stretch: u64) -> bool {
        self.forget_before(stretch);
        self.left == 0 && self.held == 0 && self.wanted == 0 && self.used.is_empty()
    }

    /// What is to be told, at this stretch of the board's time.
    pub(super) fn report(&mut self, amount: u64, stretch: u64) -> Report {
        self.forget_before(stretch);
        self.untold = false;
        Report {
            outstanding: self.left.saturating_add(self.held),
            used: self.used.iter().copied().collect(),
            wanted: self.wanted.max(amount),
            amount,
        }
    }

    /// What the board answered to a report.
    pub(super) fn hear(&mut self, report: &Report, reply: &Reply, now: u64) {
        self.left = self.left.saturating_add(reply.granted);
        (self.others, self.others_until) = (reply.others, now.saturating_add(reply.reset));
        self.last_told = now;
        self.alone_until = 0;
        if reply.granted > 0 {
            self.last_taken = now;
        }
        let (amount, wait) = (report.amount, reply.wait.clamp(1, LONGEST));
        let refused = amount > 0 && reply.granted < amount;
        self.refusal = refused.then_some(Refusal { at: now, amount, wait });
    }

    /// The report was lost: what it said is not told.
    pub(super) fn unheard(&mut self) {
        self.untold = true;
    }

    /// Lets go of what has left the window, and brings back what a clock has put into the future.
    fn forget_before(&mut self, stretch: u64) {
        while self
            .used
            .front()
            .is_some_and(|(oldest, sum)| oldest + STRETCHES < stretch || *sum == 0)
        {
            self.used.pop_front();
        }
        let mut ahead = 0_u64;
        while let Some((newest, sum)) = self.used.back().copied()
            && newest > stretch + 1
        {
            ahead = ahead.saturating_add(sum);
            self.used.pop_back();
        }
        if ahead > 0 {
            self.spend(ahead, stretch);
        }
    }
}

/// The length of a stretch of this window, microseconds.
pub(super) fn stretch_of(window: Duration) -> u64 {
    u64::try_from(window.as_micros()).unwrap_or(u64::MAX).div_ceil(STRETCHES).max(1)
}

#[cfg(test)]
mod tests;
