//! What the packet generator and its sink cost: ticks per packet, nothing between them.

use std::error::Error;

use dataplane::{Frame, Pages, Pool, Queue, ticks};
use ports::{GeneratorConfig, GeneratorQueue, Template, Values};

const BURST: usize = 256;
const BURSTS: usize = 4000;

fn main() -> Result<(), Box<dyn Error>> {
    // 10.0.0.1 -> 20.0.0.0, UDP 1000 -> 2000.
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    bytes.extend([
        0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 20, 0, 0, 0,
    ]);
    bytes.extend([3, 232, 7, 208, 0, 26, 0xff, 0xff]);
    bytes.resize(60, 0);
    let mut long = bytes.clone();
    long.resize(1514, 0);
    long[16..18].copy_from_slice(&1500u16.to_be_bytes());
    long[38..40].copy_from_slice(&1480u16.to_be_bytes());
    let run = Values::Increment {
        first: 0x1400_0000,
        last: 0x1400_ffff,
        step: 1,
    };
    let random = Values::Random {
        first: 0x1400_0000,
        last: 0x14ff_ffff,
    };
    let cases = [
        ("60 bytes, fixed", Template::new(bytes.clone())),
        (
            "60 bytes, one increment",
            Template::new(bytes.clone()).field(30, 4, run.clone()),
        ),
        (
            "60 bytes, one random",
            Template::new(bytes.clone()).field(30, 4, random),
        ),
        (
            "60 bytes, three increments",
            Template::new(bytes)
                .field(30, 4, run.clone())
                .field(26, 4, run.clone())
                .field(
                    34,
                    2,
                    Values::Increment {
                        first: 1,
                        last: 60_000,
                        step: 7,
                    },
                ),
        ),
        (
            "1514 bytes, one increment",
            Template::new(long).field(30, 4, run),
        ),
    ];
    let pool = Pool::new(8192, Pages::Reserved)?;
    let mut buffers = pool.cache();
    for (name, template) in cases {
        let mut queue = GeneratorQueue::new(&GeneratorConfig::new(vec![template]))?;
        let (mut rx, mut tx) = (Vec::with_capacity(BURSTS), Vec::with_capacity(BURSTS));
        for _ in 0..BURSTS {
            let mut frame = Frame::new();
            let begin = ticks();
            let count = queue.rx(&mut frame, BURST, &mut buffers);
            let middle = ticks();
            queue.tx(frame.packets_mut(), &mut buffers);
            let end = ticks();
            rx.push((middle - begin) as f64 / count as f64);
            tx.push((end - middle) as f64 / count as f64);
        }
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{name:<28} rx {:5.1}  tx {:5.1} ticks per packet",
            median(&mut rx),
            median(&mut tx)
        );
    }
    Ok(())
}
