//! Translation of the running engine: compiled when something changes that it depends on.

use graph_nodes::nat::Nat;
use model::{DesiredState, Kind, ObjectKey};

use super::{State, limit};
use crate::compile::Numbering;
use crate::compile::nat::{NatSections, PoolNumbers, compile};
use crate::dataplane::PrepareError;

/// What is compiled, and the numbers that it has.
#[derive(Clone, Default)]
pub(super) struct NatKeeper {
    /// What workers see.
    pub(super) live: Nat,
    sections: NatSections,
    numbers: PoolNumbers,
}

impl NatKeeper {
    /// What a state makes of it. Rules that stay the same are not built again.
    fn next(&self, desired: &DesiredState, numbering: &Numbering) -> Result<Self, PrepareError> {
        let numbers = self.numbers.next(desired).map_err(|error| {
            limit(
                ObjectKey::new(Kind::NatPool, error.pool.as_str()),
                format!(
                    "there are {} pools and addresses of interfaces in pools already, which is the most: delete one first",
                    error.most
                ),
            )
        })?;
        let sections = compile(desired, numbering, &numbers);
        let live = if sections == self.sections {
            self.live.clone()
        } else {
            sections.to_nat()
        };
        Ok(Self {
            live,
            sections,
            numbers,
        })
    }
}

impl State {
    /// The translation of a state that is about to be live.
    pub(super) fn prepare_nat(
        &self,
        next: &DesiredState,
        numbering: &Numbering,
    ) -> Result<NatKeeper, PrepareError> {
        let nothing = next.nat.is_empty() && self.desired.nat.is_empty();
        let same = nothing
            || next.nat == self.desired.nat
                && *numbering == self.numbering
                && next.addresses == self.desired.addresses
                && next.interfaces == self.desired.interfaces;
        if same {
            return Ok(self.nat.clone());
        }
        self.nat.next(next, numbering)
    }
}
