//! What can go wrong, and whose fault it is.

use std::io;
use std::time::Duration;

/// Error of a lab or of a traffic tool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The system refused an operation.
    #[error("cannot {action}: {source}")]
    System {
        /// What was attempted, with the names of namespace and device.
        action: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The description of a topology is wrong.
    #[error("topology line {line}: {message}")]
    Line {
        /// Line of the text, from 1.
        line: usize,
        /// What is wrong and what is expected.
        message: String,
    },
    /// The topology as a whole does not fit together.
    #[error("topology: {0}")]
    Topology(String),
    /// The lab has no such member.
    #[error("the lab has no {kind} named `{name}`; it has: {known}")]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// An argument of the caller is out of range.
    #[error("invalid {what}: {message}")]
    Invalid {
        /// Which argument.
        what: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// Something that has to happen did not happen in time.
    #[error("{what} did not happen within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// No privileges, and no way to get them.
    #[error(
        "no privilege to make network namespaces, and a user namespace cannot be made either ({source}). \
         Run as root, or allow user namespaces: {hint}"
    )]
    NoUserNamespace {
        /// What the kernel answered.
        source: io::Error,
        /// What to change on this machine.
        hint: String,
    },
    /// A thread of a traffic tool panicked: a bug in this package.
    #[error("internal error: the thread `{0}` panicked")]
    ThreadPanicked(String),
}

impl SimError {
    /// Whether the cause is missing privilege: the lab cannot be made on this machine by this user.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::NoUserNamespace { .. } => true,
            Self::System { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}

/// Names the attempted action in a system error: `.map_err(cannot("open a socket"))`.
pub(crate) fn cannot<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> SimError {
    move |source| SimError::System {
        action: action.into(),
        source: source.into(),
    }
}
