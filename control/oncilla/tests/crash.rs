//! kill -9 of the real daemon at random points of a stream of transactions: what was acknowledged is there and live after
//! the restart, and nothing is half there.

mod kit;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use control::client::ClientError;
use control_api::v1;
use kit::{Daemon, command, key, object, parse};
use nix::sys::signal::{Signal, kill};

const KILLS: u64 = 200;
/// Objects that stay: a transaction makes a route, updates a VRF and removes the route of so many transactions ago.
const SLOTS: u64 = 5;

#[test]
fn acknowledged_transactions_survive_kill_9() {
    let kills = std::env::var("ONCILLA_CRASH_KILLS").map_or(KILLS, |count| {
        count
            .parse()
            .expect("ONCILLA_CRASH_KILLS is a number of kills")
    });
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("desired.redb");
    let arguments = [
        "--store",
        store.to_str().expect("UTF-8"),
        "--buffers",
        "1024",
        "--log",
        "warn",
    ];
    let random = RandomState::new();
    let (mut acknowledged, mut kept) = (0, 0);
    let start = Instant::now();
    for round in 0..=kills {
        if round % 5 == 4 {
            // While it starts, and restores what is stored.
            killed_at_start(directory.path(), &arguments, random.hash_one(round) % 40);
        }
        let mut daemon = Daemon::start_without_lab(directory.path(), &arguments);
        let (generation, objects) = daemon.objects();
        let context =
            format!("after {round} kills; acknowledged {acknowledged}, found {generation}");
        assert!(
            generation == acknowledged || generation == acknowledged + 1,
            "{context}"
        );
        assert_eq!(strip(objects), state(generation), "{context}");
        let live: BTreeSet<String> = daemon
            .routes()
            .into_iter()
            .map(|route| format!("{} {} {}", route.vrf, route.destination, route.origin))
            .collect();
        assert_eq!(live, routes(generation), "{context}");
        kept += generation - acknowledged;
        acknowledged = generation;
        if round == kills {
            daemon.stop();
            break;
        }

        let pid = daemon.pid();
        let micros = random.hash_one(!round) % 30_000;
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_micros(micros));
            kill(pid, Signal::SIGKILL).expect("is ours");
        });
        loop {
            match daemon.ask(async |client| client.apply(transaction(acknowledged + 1)).await) {
                Ok(answer) => {
                    acknowledged += 1;
                    assert_eq!(answer.generation, acknowledged);
                }
                Err(ClientError::Refused(refusal)) => panic!("{:?}", refusal.errors),
                Err(_) => break,
            }
        }
        killer.join().unwrap();
        daemon.kill();
    }
    println!(
        "{kills} kills, {acknowledged} transactions, {kept} of them stored but not acknowledged, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    // Otherwise the kills would not have hit a stream of transactions.
    assert!(
        acknowledged > kills,
        "{acknowledged} transactions in {kills} lives"
    );
}

fn killed_at_start(directory: &Path, arguments: &[&str], after_ms: u64) {
    let mut process = command(directory, arguments).spawn().expect("starts");
    thread::sleep(Duration::from_millis(after_ms));
    assert_eq!(process.try_wait().unwrap(), None, "it ended by itself");
    process.kill().unwrap();
    process.wait().unwrap();
}

/// The n-th transaction changes up to three objects together.
fn transaction(n: u64) -> v1::ApplyRequest {
    v1::ApplyRequest {
        upserts: vec![vrf(n), route(n)],
        deletes: n
            .checked_sub(SLOTS)
            .filter(|gone| *gone > 0)
            .map(|gone| key("Route", &format!("r{gone}")))
            .into_iter()
            .collect(),
        ..v1::ApplyRequest::default()
    }
}

fn vrf(n: u64) -> v1::Object {
    let slot = n % SLOTS;
    parse(&object(
        "Vrf",
        &format!("v{slot}"),
        &format!("{{description: transaction {n}}}"),
    ))
    .remove(0)
}

fn route(n: u64) -> v1::Object {
    let spec = format!(
        "{{vrf: v{}, destination: {}, type: blackhole}}",
        n % SLOTS,
        destination(n)
    );
    parse(&object("Route", &format!("r{n}"), &spec)).remove(0)
}

fn destination(n: u64) -> String {
    format!("10.{}.{}.0/24", n / 200 % 200, n % 200)
}

/// The transactions whose objects are there after the n-th.
fn present(n: u64) -> impl Iterator<Item = u64> {
    n.saturating_sub(SLOTS - 1).max(1)..=n
}

/// What the first n transactions make.
fn state(n: u64) -> Vec<v1::Object> {
    sorted(present(n).flat_map(|n| [vrf(n), route(n)]).collect())
}

/// The routes of that.
fn routes(n: u64) -> BTreeSet<String> {
    present(n)
        .map(|n| format!("v{} {} Route/r{n}", n % SLOTS, destination(n)))
        .collect()
}

/// Without what the server sets.
fn strip(mut objects: Vec<v1::Object>) -> Vec<v1::Object> {
    for object in &mut objects {
        let metadata = object.metadata.as_mut().expect("is always there");
        *metadata = v1::Metadata {
            name: std::mem::take(&mut metadata.name),
            ..v1::Metadata::default()
        };
    }
    sorted(objects)
}

fn sorted(mut objects: Vec<v1::Object>) -> Vec<v1::Object> {
    objects.sort_by_key(|object| (object.kind.clone(), object.name().to_owned()));
    objects
}
