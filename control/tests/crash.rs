//! kill -9 at random points of a stream of transactions: what was acknowledged is there after the restart, and nothing is half there.

mod support;

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use control::client::Client;
use control::daemon::{self, Options, StoreLocation};
use control_api::v1;
use support::{FixedTelemetry, RecordingDataplane, address, interface};

const DIRECTORY: &str = "ONCILLA_CRASH_TEST_DIRECTORY";
const KILLS: usize = 200;
const SLOTS: u64 = 5;

/// No test by itself: the process that [`acknowledged_transactions_survive_kill_9`] starts and kills.
#[test]
fn daemon_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let options = options(Path::new(&directory));
    let run = daemon::run(
        options,
        Box::new(RecordingDataplane::default()),
        Arc::new(FixedTelemetry),
        || (),
        std::future::pending(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run).expect("runs until it is killed");
}

#[tokio::test]
async fn acknowledged_transactions_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    let mut in_flight_kept = 0;
    for kill in 0..=KILLS {
        let mut process = spawn(directory.path());
        let mut client = connect(directory.path(), &mut process).await;
        let (generation, objects) = client.list(&[]).await.expect("lists");
        let context =
            format!("after {kill} kills; acknowledged {acknowledged}, found {generation}");
        assert!(
            generation == acknowledged || generation == acknowledged + 1,
            "{context}"
        );
        in_flight_kept += generation - acknowledged;
        assert_eq!(strip(objects), state(generation), "{context}");
        acknowledged = generation;

        let micros = RandomState::new().hash_one(kill) % 15_000;
        let killer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            process.kill().expect("kills");
            process.wait().expect("reaps");
        });
        loop {
            match client.upsert(transaction(acknowledged + 1)).await {
                Ok(answer) => {
                    assert_eq!(answer.generation, acknowledged + 1);
                    acknowledged = answer.generation;
                }
                Err(error) => {
                    assert!(
                        !matches!(error, control::client::ClientError::Refused(_)),
                        "{error}"
                    );
                    break;
                }
            }
        }
        killer.await.unwrap();
    }
    // Otherwise the kills would not have hit a stream of transactions.
    assert!(
        acknowledged > KILLS as u64,
        "{acknowledged} transactions, {in_flight_kept} of them unacknowledged"
    );
}

/// The n-th transaction changes two objects together.
fn transaction(n: u64) -> Vec<v1::Object> {
    let slot = n % SLOTS;
    let mut port = interface(&format!("p{slot}"));
    let subnet = address(
        &format!("a{slot}"),
        &format!("p{slot}"),
        &format!("10.{slot}.0.{}/24", 1 + n % 200),
    );
    let metadata = port.metadata.as_mut().unwrap();
    metadata
        .annotations
        .insert("transaction".into(), n.to_string());
    vec![port, subnet]
}

/// What the first n transactions make.
fn state(n: u64) -> Vec<v1::Object> {
    let mut objects: Vec<_> = (n.saturating_sub(SLOTS - 1).max(1)..=n)
        .flat_map(transaction)
        .collect();
    objects.sort_by_key(|object| (object.kind == "Address", object.name().to_owned()));
    objects
}

/// Without what the server sets.
fn strip(mut objects: Vec<v1::Object>) -> Vec<v1::Object> {
    for object in &mut objects {
        let metadata = object.metadata.as_mut().unwrap();
        *metadata = v1::Metadata {
            name: metadata.name.clone(),
            annotations: metadata.annotations.clone(),
            ..Default::default()
        };
    }
    objects
}

fn options(directory: &Path) -> Options {
    Options {
        socket: directory.join("oncilla.sock"),
        store: StoreLocation::File(directory.join("desired.redb")),
        config: Vec::new(),
    }
}

fn spawn(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["daemon_process", "--exact", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn connect(directory: &Path, process: &mut Child) -> Client {
    loop {
        if let Ok(client) = Client::connect(&options(directory).socket).await {
            return client;
        }
        assert_eq!(
            process.try_wait().unwrap(),
            None,
            "the daemon does not start"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
