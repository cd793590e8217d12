//! Time to live. A record is expired when its event time plus its time to live lies in the past, judged at the
//! edge of the read; apply never reads a clock.

use crate::{Error, EventTime};

/// The unit of a [`Ttl`] (contract 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TtlUnit {
    /// 1 s.
    Seconds,
    /// 60 s.
    Minutes,
    /// 3,600 s.
    Hours,
    /// 86,400 s.
    Days,
    /// 604,800 s.
    Weeks,
}

/// A time to live as it was given, so that it is described as it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ttl {
    /// The unit.
    pub unit: TtlUnit,
    /// How many of it, at least 1.
    pub value: u32,
}

impl Ttl {
    /// A time to live of `value` units.
    ///
    /// # Errors
    /// `Invalid` for zero.
    pub fn new(unit: TtlUnit, value: u32) -> Result<Self, Error> {
        if value == 0 {
            return Err(Error::invalid("a time to live is at least 1"));
        }
        Ok(Self { unit, value })
    }

    /// In seconds.
    pub fn seconds(self) -> u64 {
        let unit = match self.unit {
            TtlUnit::Seconds => 1,
            TtlUnit::Minutes => 60,
            TtlUnit::Hours => 3_600,
            TtlUnit::Days => 86_400,
            TtlUnit::Weeks => 604_800,
        };
        u64::from(self.value) * unit
    }
}

/// When a record with this event time and time to live expires; the end of time where the sum lies beyond it.
pub fn expires_at(event_time: EventTime, ttl_seconds: u64) -> EventTime {
    let nanos = event_time.nanos() + i128::from(ttl_seconds) * 1_000_000_000;
    EventTime::from_nanos(nanos).unwrap_or(EventTime::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_counted_from_the_event_time() {
        let event_time = EventTime::parse_iso("2024-01-01T00:00:00.5Z").expect("valid");
        let ttl = Ttl::new(TtlUnit::Weeks, 1).expect("positive");
        assert_eq!(expires_at(event_time, ttl.seconds()).to_string(), "2024-01-08T00:00:00.500Z");
        assert_eq!(expires_at(EventTime::MAX, 1), EventTime::MAX);
        assert!(Ttl::new(TtlUnit::Days, 0).is_err());
    }
}
