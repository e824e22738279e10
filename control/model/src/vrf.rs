//! Routing domains.

/// A routing domain with its own routes and addresses. `default` always exists and is never declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vrf {
    /// For people.
    pub description: Option<String>,
}
