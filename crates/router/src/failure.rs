//! What an attempt at one replica came to when it brought no answer, and whether it may have been applied.

use std::error::Error as _;

use granary_proto::convert::kind_of_status;
use granary_types::{Error, ErrorKind, NodeId};
use tonic::{Code, ConnectError, Status};

/// An attempt without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The replica does not lead, and says who does where it knows. Nothing was changed.
    NotLeader(Option<NodeId>),
    /// Refused, or never sent: nothing was changed.
    Refused(Error),
    /// No word came back: it may have been applied.
    Lost(Error),
    /// The answer was larger than a message may be.
    TooLarge,
}

impl Failure {
    /// Whether another replica, or the same one later, could answer.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Refused(error) if matches!(
            error.kind,
            ErrorKind::Invalid | ErrorKind::Forbidden | ErrorKind::LimitExceeded | ErrorKind::Overloaded
        )) || matches!(self, Self::TooLarge)
    }

    /// As an error of the whole request.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::NotLeader(_) => Error::new(ErrorKind::Unavailable, "no replica of the shard leads it"),
            Self::Refused(error) | Self::Lost(error) => error,
            Self::TooLarge => Error::new(ErrorKind::Invalid, "the answer is larger than a message may be"),
        }
    }

    /// What a label in metrics calls it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotLeader(_) => "not_leader",
            Self::Refused(_) => "refused",
            Self::Lost(_) => "lost",
            Self::TooLarge => "too_large",
        }
    }
}

impl From<Status> for Failure {
    /// A status that a node sent says what happened there. One that the transport made up says only that no word
    /// came back, unless the connection never stood.
    fn from(status: Status) -> Self {
        if status.code() == Code::OutOfRange {
            return Self::TooLarge;
        }
        let kind = kind_of_status(&status);
        let message = status.message().to_owned();
        let from_transport = status.source().is_some();
        if from_transport && never_connected(&status) {
            return Self::Refused(Error::new(ErrorKind::Unavailable, format!("cannot connect to the node: {message}")));
        }
        if from_transport || matches!(kind, ErrorKind::Unknown | ErrorKind::Internal) {
            return Self::Lost(Error::new(ErrorKind::Unknown, format!("the node did not answer: {message}")));
        }
        Self::Refused(Error::new(kind, message))
    }
}

fn never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_node_is_no_loss() {
        let refused = Failure::from(Status::unavailable("stopping"));
        assert_eq!(refused, Failure::Refused(Error::new(ErrorKind::Unavailable, "stopping")));
        assert!(!refused.is_final());
        assert!(Failure::from(Status::resource_exhausted("full")).is_final());
    }

    #[test]
    fn what_the_transport_says_is_a_loss_unless_nothing_was_sent() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(matches!(Failure::from(broken), Failure::Lost(_)));
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let unconnected = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        assert!(matches!(Failure::from(unconnected), Failure::Refused(_)));
        assert!(matches!(Failure::from(Status::deadline_exceeded("slow")), Failure::Lost(_)));
    }
}
