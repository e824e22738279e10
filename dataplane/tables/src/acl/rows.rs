//! Bitmaps with a bit per rule, each distinct one stored once.

use std::collections::HashMap;

/// How a row is laid out: first a bit per word that is not zero (long rows only), then the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Words of the bitmap: 1, 2, 4, 8 or, with a summary, any number above.
    pub words: usize,
    /// Words of the summary.
    pub summary: usize,
}

impl Shape {
    /// For `rules` rules.
    pub fn new(rules: usize) -> Self {
        let words = rules.div_ceil(64).max(1);
        if words <= 8 {
            let words = words.next_power_of_two();
            return Self { words, summary: 0 };
        }
        let summary = words.div_ceil(64);
        Self { words, summary }
    }

    /// Words of a stored row.
    pub fn stride(self) -> usize {
        self.words + self.summary
    }
}

/// Stored rows. A row is known by its place: the index of its first word.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub shape: Shape,
    pub words: Vec<u64>,
    /// Bitmaps that stand side by side in a row: 1, or 2 where a field needs two.
    pub columns: usize,
    by_hash: HashMap<u64, Vec<u32>>,
}

impl Rows {
    pub fn new(shape: Shape, columns: usize) -> Self {
        Self {
            shape,
            words: Vec::new(),
            columns,
            by_hash: HashMap::new(),
        }
    }

    /// A row of no rules, for [`add`](Self::add): the bitmaps without summaries.
    pub fn blank(&self) -> Vec<u64> {
        vec![0; self.columns * self.shape.words]
    }

    /// The place of a row equal to `bitmaps`.
    ///
    /// # Panics
    /// There are 2^32 words already.
    pub fn add(&mut self, bitmaps: &[u64]) -> u32 {
        debug_assert_eq!(bitmaps.len(), self.columns * self.shape.words);
        let hash = bitmaps
            .iter()
            .fold(0x9e37_79b9_7f4a_7c15u64, |hash, &word| {
                (hash ^ word)
                    .wrapping_mul(0xff51_afd7_ed55_8ccd)
                    .rotate_left(29)
            });
        let same = self.by_hash.entry(hash).or_default();
        for &place in same.iter() {
            let equal = bitmaps
                .chunks(self.shape.words)
                .enumerate()
                .all(|(column, bitmap)| {
                    let start = place as usize + column * self.shape.stride() + self.shape.summary;
                    self.words[start..start + self.shape.words] == *bitmap
                });
            if equal {
                return place;
            }
        }
        let place = u32::try_from(self.words.len()).expect("rows below 32 GiB");
        same.push(place);
        for bitmap in bitmaps.chunks(self.shape.words) {
            if self.shape.summary != 0 {
                self.words.extend(bitmap.chunks(64).map(|words| {
                    let bit = |(at, word): (usize, &u64)| u64::from(*word != 0) << at;
                    words.iter().enumerate().map(bit).sum::<u64>()
                }));
            }
            self.words.extend_from_slice(bitmap);
        }
        place
    }

    /// Ends the building: what only [`add`](Self::add) needs is given up.
    pub fn freeze(&mut self) {
        self.by_hash = HashMap::new();
        self.words.shrink_to_fit();
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.words[..])
    }
}
