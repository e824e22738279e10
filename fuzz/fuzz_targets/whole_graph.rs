//! Frames made of the fuzzer's bytes through the whole graph: nothing panics, every frame is accounted for, every buffer
//! comes back.
#![no_main]

#[path = "../../graph-nodes/tests/kit/mod.rs"]
mod kit;

use std::cell::RefCell;

use kit::{A, Lab};
use kit::counted::{self, Ledger};
use kit::frames::{self, Dice};
use libfuzzer_sys::fuzz_target;

/// Frames of one input at the most.
const FRAMES: usize = 64;
/// Inputs after which a gateway is taken apart and its buffers are counted.
const INPUTS: u32 = 512;

thread_local! {
    static LAB: RefCell<Option<(Lab, u32)>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    LAB.with_borrow_mut(|slot| {
        let fresh = || {
            Lab::with(&counted::graph(), |snapshot| {
                snapshot.interfaces[usize::from(A)].redirects = true;
            })
        };
        let (mut lab, inputs) = slot.take().unwrap_or_else(|| (fresh(), 0));
        let mut dice = Dice::Bytes(bytes);
        for _ in 0..FRAMES {
            if dice.is_spent() {
                break;
            }
            let (port, frame) = frames::next(&mut dice);
            lab.send_wire(port, frame);
        }
        lab.turn();
        lab.punts();
        lab.settle();
        lab.punts();
        Ledger::of(&lab).check(&lab);
        if inputs + 1 < INPUTS {
            *slot = Some((lab, inputs + 1));
        } else {
            lab.finish();
        }
    });
});
