//! Which class each atom has: an array that views share chunk by chunk.

use std::sync::Arc;

use crate::prefetch::prefetch;

/// Stands for an atom that a view does not know.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// Atoms per chunk: 8 KiB to copy where one of them changes, 500 chunks to share for a million atoms.
const CHUNK: usize = 2048;

type Chunk = [u32; CHUNK];

/// The writer's array.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    chunks: Vec<Arc<Chunk>>,
}

/// A view's array.
#[derive(Debug)]
pub(super) struct AtomsView {
    chunks: Box<[Arc<Chunk>]>,
}

impl Atoms {
    /// Gives `atom` a class, or [`UNKNOWN`]. Copies the chunk if a view shares it.
    pub(super) fn set(&mut self, atom: u32, class: u32) {
        let (chunk, slot) = place(atom);
        while self.chunks.len() <= chunk {
            self.chunks.push(Arc::new([UNKNOWN; CHUNK]));
        }
        let chunk = &mut self.chunks[chunk];
        if chunk[slot] != class {
            Arc::make_mut(chunk)[slot] = class;
        }
    }

    /// The array as it is now. `O(atoms / 2048)`.
    pub(super) fn view(&self) -> AtomsView {
        AtomsView {
            chunks: self.chunks.clone().into_boxed_slice(),
        }
    }
}

impl AtomsView {
    /// The class of `atom`, or [`UNKNOWN`].
    #[inline(always)]
    pub(super) fn class(&self, atom: u32) -> u32 {
        let (chunk, slot) = place(atom);
        match self.chunks.get(chunk) {
            Some(chunk) => chunk[slot],
            None => UNKNOWN,
        }
    }

    /// Asks for the line that [`class`](Self::class) of `atom` reads.
    #[inline(always)]
    pub(super) fn prefetch(&self, atom: u32) {
        let (chunk, slot) = place(atom);
        if let Some(chunk) = self.chunks.get(chunk) {
            prefetch(&raw const chunk[slot]);
        }
    }

    /// Whether the array is too large for the first-level cache, so that a batch should prefetch.
    #[inline(always)]
    pub(super) fn is_large(&self) -> bool {
        self.chunks.len() > 2
    }
}

#[inline(always)]
fn place(atom: u32) -> (usize, usize) {
    (atom as usize / CHUNK, atom as usize % CHUNK)
}
