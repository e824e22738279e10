//! What is wrong with a value, and with a field of an object.

use std::fmt;

use crate::ObjectKey;

/// A value that its type refuses, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct SpecError {
    /// Which object.
    pub object: ObjectKey,
    /// Path of the field, such as `spec.nextHops[1].interface`; empty where the whole object is meant.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl SpecError {
    /// An error at a field of an object.
    pub fn new(object: ObjectKey, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            object,
            field: field.into(),
            message: message.into(),
        }
    }
}

/// `Kind/name: field: message`.
impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

macro_rules! invalid {
    ($($format:tt)*) => { $crate::Invalid(format!($($format)*)) };
}
pub(crate) use invalid;
