//! Before anybody is let in: whether the clock can be believed, and who may come in at all.

use std::fmt::Write as _;

use anyhow::bail;
use jiff::Timestamp;

use crate::config::Auth;

/// The second at which 2026 began: before that nobody ran this program.
const WRITTEN: i64 = 1_767_225_600;

/// Refuses a clock that was never set: expiries are judged by it, and everything that has ended
/// would be good again.
pub(super) fn believe_clock(now: Timestamp) -> anyhow::Result<()> {
    if now.as_second() < WRITTEN {
        bail!("the clock says {now}, which is before this program was written: set it first");
    }
    Ok(())
}

/// What is taken as a proof of who somebody is: there is no way in without one.
pub(super) fn ways_in(auth: &Auth) -> String {
    let mut text = format!("API keys in {} or Authorization", auth.api_key_header);
    if auth.key_in_path {
        text.push_str(" or the path");
    }
    let issuers: Vec<&str> = auth.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    let others = if issuers.is_empty() { String::new() } else { " and of ".to_owned() };
    // writing into memory cannot fail
    let _ = write!(
        text,
        ", tokens of {}{others}{}, registered SSH keys",
        auth.jwt.issuer,
        issuers.join(", ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_not_believed() {
        for (second, believed) in [(0, false), (-5, false), (WRITTEN - 1, false), (WRITTEN, true)] {
            let judged = believe_clock(Timestamp::from_second(second).unwrap());
            assert_eq!(judged.is_ok(), believed, "{second}");
        }
        let said = believe_clock(Timestamp::UNIX_EPOCH).unwrap_err().to_string();
        assert!(said.starts_with("the clock says 1970-01-01T00:00:00Z,"), "{said}");
        let year = Timestamp::from_second(WRITTEN).unwrap().to_string();
        assert_eq!(year, "2026-01-01T00:00:00Z");
    }
}
