//! `--consistency`: what a read promises.

use std::str::FromStr;
use std::time::Duration;

use granary_proto::v1::{Consistency, ConsistencyLevel};

use super::hex;
use crate::config::units::parse_duration;

/// Help of the commands that read.
pub(super) const HELP: &str = "\
Consistency, from dear to cheap:
  linearizable   the newest of all writes acknowledged before the read began
  session:TOKEN  at least the write whose token is given (`put` prints it), from any replica
  bounded:5s     at least what was acknowledged that long before, from any replica
  eventual       what a replica has

Example:
  granary get users 42 --features avg_trip_duration --consistency bounded:5s";

/// What a read promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConsistencyArg {
    /// The newest of all.
    Linearizable,
    /// At least one's own writes.
    Session(Vec<u8>),
    /// Not older than this.
    Bounded(Duration),
    /// Anything.
    Eventual,
}

impl ConsistencyArg {
    /// As a message.
    pub(crate) fn to_wire(&self) -> Consistency {
        let mut wire = Consistency::default();
        wire.set_level(match self {
            Self::Linearizable => ConsistencyLevel::Linearizable,
            Self::Session(_) => ConsistencyLevel::Session,
            Self::Bounded(_) => ConsistencyLevel::BoundedStaleness,
            Self::Eventual => ConsistencyLevel::Eventual,
        });
        match self {
            Self::Session(token) => wire.sessions = vec![token.clone().into()],
            Self::Bounded(bound) => wire.max_staleness_ms = u32::try_from(bound.as_millis()).unwrap_or(u32::MAX),
            Self::Linearizable | Self::Eventual => {}
        }
        wire
    }
}

impl FromStr for ConsistencyArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "linearizable" => Ok(Self::Linearizable),
            None if text == "eventual" => Ok(Self::Eventual),
            Some(("session", token)) if !token.is_empty() => hex::decode(token).map(Self::Session),
            Some(("bounded", bound)) => parse_duration(bound).map(Self::Bounded),
            _ => Err("expected linearizable, session:TOKEN, bounded:TIME or eventual".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_read() {
        assert_eq!("linearizable".parse(), Ok(ConsistencyArg::Linearizable));
        assert_eq!("eventual".parse(), Ok(ConsistencyArg::Eventual));
        assert_eq!("bounded:5s".parse(), Ok(ConsistencyArg::Bounded(Duration::from_secs(5))));
        assert_eq!("session:0aff".parse(), Ok(ConsistencyArg::Session(vec![0x0a, 0xff])));
        for text in ["", "strong", "bounded", "bounded:", "bounded:5", "session:", "session:x", "eventual:1s"] {
            assert!(text.parse::<ConsistencyArg>().is_err(), "{text:?} was accepted");
        }
        let wire = ConsistencyArg::Bounded(Duration::from_millis(1500)).to_wire();
        assert_eq!((wire.level(), wire.max_staleness_ms), (ConsistencyLevel::BoundedStaleness, 1500));
    }
}
