//! The end of a process: nobody new, then nobody idle, then nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::LAST_WORDS;
use super::signals::{Order, Signals};
use crate::gateway::Gauges;
use crate::gateway::stage::{Stage, Step};
use crate::live::Live;

/// How long an open connection may take to bring its last request, when this process stops. Who
/// connected just before is not turned away; who only idles does not hold the end up.
const LAST_ORDERS: Duration = Duration::from_millis(200);
/// The same when a successor serves: nothing is in a hurry.
const LAST_ORDERS_REPLACED: Duration = Duration::from_secs(5);

/// How often what is left is counted.
const LOOK: Duration = Duration::from_millis(20);

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// A successor serves; what is under way finishes here.
    Replaced,
    /// What is under way may finish within `timeouts.drain`.
    Stop,
    /// At once.
    StopNow,
}

/// What is needed to end well.
pub(super) struct Ending {
    pub(super) stage: watch::Sender<Stage>,
    pub(super) gauges: Gauges,
    pub(super) live: Arc<Live>,
    pub(super) signals: Signals,
}

impl Ending {
    /// Ends everything; returns when nothing is left, or what is left has had its time.
    pub(super) async fn end(mut self, last: Last, stop_accepting: impl FnOnce()) {
        let replaced = last == Last::Replaced;
        self.stage.send_replace(Stage { step: Step::Leaving, replaced });
        stop_accepting();
        if last != Last::StopNow {
            self.drain(replaced).await;
        }
        step(&self.stage, Step::Cut);
        let _ = timeout(LAST_WORDS, idle(&self.gauges)).await;
        log::info!("stopped: {}", self.gauges);
    }

    async fn drain(&mut self, replaced: bool) {
        let Self { stage, gauges, live, signals } = self;
        let timeouts = live.load().config.timeouts.clone();
        let patience = if replaced { timeouts.total } else { timeouts.drain };
        log::info!("stopping: {} requests in flight get up to {patience:?}", gauges.in_flight());
        let mut until = Instant::now() + patience;
        let mut first_order = replaced;
        let mut empty = std::pin::pin!(async {
            last_orders(gauges, replaced).await;
            step(stage, Step::Closing);
            idle(gauges).await;
        });
        loop {
            let order = tokio::select! {
                () = &mut empty => return,
                () = sleep_until(until) => {
                    log::warn!("{} requests cut short", gauges.in_flight());
                    return;
                }
                order = signals.next() => order,
            };
            match order {
                Order::Upgrade => log::warn!("there is a new process already"),
                // the service as a whole ends: its usual patience holds here, too
                Order::Stop if first_order => {
                    first_order = false;
                    until = until.min(Instant::now() + timeouts.drain);
                }
                Order::Stop | Order::StopNow => {
                    log::warn!("told twice: {} requests cut short", gauges.in_flight());
                    return;
                }
            }
        }
    }
}

fn step(stage: &watch::Sender<Stage>, step: Step) {
    stage.send_modify(|stage| stage.step = step);
}

/// Waits while connections that were just accepted may bring their request.
async fn last_orders(gauges: &Gauges, replaced: bool) {
    if replaced {
        return sleep(LAST_ORDERS_REPLACED).await;
    }
    let nobody = async {
        while gauges.connections() > 0 {
            sleep(LOOK).await;
        }
    };
    let _ = timeout(LAST_ORDERS, nobody).await;
}

/// Waits until no request is under way.
async fn idle(gauges: &Gauges) {
    while gauges.in_flight() > 0 {
        sleep(LOOK).await;
    }
}
