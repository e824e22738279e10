//! The daemon end to end, over its socket, around a recording dataplane.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use control::client::{Client, ClientError};
use control::daemon::{self, DaemonError, Options, StoreLocation};
use control::server::ServeError;
use control_api::v1::{self, ChangeAction};
use support::{Daemon, FixedTelemetry, RecordingDataplane, address, interface, key, route};
use tonic::Code;

fn names(objects: &[v1::Object]) -> Vec<String> {
    objects
        .iter()
        .map(|object| object.key().to_string())
        .collect()
}

fn gateway() -> Vec<v1::Object> {
    vec![
        interface("lan"),
        interface("wan"),
        address("lan", "lan", "10.0.0.1/24"),
        address("wan", "wan", "192.0.2.1/30"),
        route("default-v4", "0.0.0.0/0", "192.0.2.2"),
    ]
}

#[track_caller]
fn refusal(result: Result<v1::ApplyResponse, ClientError>) -> control_api::Refusal {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_get_list_delete_and_restart() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let mode = std::fs::metadata(&daemon.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut client = daemon.client().await;

    let answer = client.upsert(gateway()).await.expect("applies");
    assert_eq!(answer.generation, 1);
    assert!(
        answer
            .changes
            .iter()
            .all(|change| change.action() == ChangeAction::Created)
    );
    // Answered means live.
    assert_eq!(daemon.dataplane.live().routes.len(), 1);

    let again = client.upsert(gateway()).await.expect("applies");
    assert_eq!(again.generation, 1, "nothing changed");
    assert!(
        again
            .changes
            .iter()
            .all(|change| change.action() == ChangeAction::Unchanged)
    );

    let before = client.object("Address", "lan").await.expect("is there");
    let metadata = before.metadata.clone().unwrap();
    assert_eq!((metadata.generation, metadata.uid.len()), (1, 36));
    let moved = vec![address("lan", "lan", "10.0.0.254/24")];
    assert_eq!(client.upsert(moved).await.expect("applies").generation, 2);
    let after = client
        .object("Address", "lan")
        .await
        .expect("is there")
        .metadata
        .unwrap();
    assert_eq!(after.generation, 2);
    assert_eq!(
        (after.uid, after.creation_timestamp),
        (metadata.uid, metadata.creation_timestamp)
    );

    let dry = v1::ApplyRequest {
        deletes: vec![key("Route", "default-v4")],
        dry_run: true,
        ..Default::default()
    };
    let answer = client.apply(dry).await.expect("is valid");
    assert_eq!(
        (answer.generation, answer.changes[0].action()),
        (2, ChangeAction::Deleted)
    );
    assert!(client.object("Route", "default-v4").await.is_ok());
    assert_eq!(daemon.dataplane.0.lock().unwrap().abandoned, 1);

    client
        .delete(vec![key("Route", "default-v4")])
        .await
        .expect("deletes");
    let gone = client
        .object("Route", "default-v4")
        .await
        .expect_err("is gone");
    assert_eq!(gone.code(), Some(Code::NotFound));
    let live = daemon.dataplane.live();
    daemon.stop().await;

    let daemon = Daemon::start(directory.path()).await;
    assert_eq!(
        daemon.dataplane.live(),
        live,
        "a restart restores the desired state"
    );
    let mut client = daemon.client().await;
    let (generation, objects) = client.list(&[]).await.expect("lists");
    assert_eq!(generation, 3);
    assert_eq!(
        names(&objects),
        [
            "Interface/lan",
            "Interface/wan",
            "Address/lan",
            "Address/wan"
        ]
    );
    let (_, objects) = client.list(&["Address"]).await.expect("lists");
    assert_eq!(names(&objects), ["Address/lan", "Address/wan"]);
    assert_eq!(
        client.list(&["Addres"]).await.expect_err("no kind").code(),
        Some(Code::InvalidArgument)
    );
    assert_eq!(
        client
            .upsert(vec![interface("dmz")])
            .await
            .expect("applies")
            .generation,
        4
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_transaction_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let mut client = daemon.client().await;
    client.upsert(gateway()).await.expect("applies");
    let before = client.list(&[]).await.expect("lists");
    let live = daemon.dataplane.live();

    // One good object and one bad one: both stay out.
    let request = vec![interface("dmz"), route("bad", "10.9.0.0/16", "172.16.0.1")];
    let refused = refusal(client.upsert(request).await);
    assert_eq!(refused.code, Code::InvalidArgument);
    assert_eq!(refused.errors[0].field, "spec.nextHops[0].via");
    assert_eq!(refused.errors[0].object, Some(key("Route", "bad")));

    let refused = refusal(client.delete(vec![key("Interface", "wan")]).await);
    assert_eq!(refused.errors[0].object, Some(key("Interface", "wan")));
    assert_eq!(
        refused.errors[0].message,
        "still used by Address/wan (spec.interface)"
    );
    let refused = refusal(client.delete(vec![key("Interface", "nowhere")]).await);
    assert_eq!(refused.code, Code::NotFound);
    let refused = refusal(client.delete(vec![key("Port", "lan")]).await);
    assert_eq!(
        (refused.code, refused.errors[0].field.as_str()),
        (Code::InvalidArgument, "kind")
    );
    let refused = refusal(
        client
            .upsert(vec![interface("dmz"), interface("dmz")])
            .await,
    );
    assert_eq!(refused.errors[0].message, "is in the transaction twice");

    daemon
        .dataplane
        .0
        .lock()
        .unwrap()
        .missing_devices
        .insert("dmz".into());
    let refused = refusal(client.upsert(vec![interface("dmz")]).await);
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert_eq!(refused.errors[0].field, "spec.afPacket.device");
    daemon.dataplane.0.lock().unwrap().route_limit = Some(1);
    let refused = refusal(
        client
            .upsert(vec![route("z", "10.9.0.0/16", "192.0.2.2")])
            .await,
    );
    assert_eq!(refused.code, Code::ResourceExhausted);

    let stale = v1::ApplyRequest {
        upserts: vec![interface("new")],
        expected_generation: Some(before.0 - 1),
        ..Default::default()
    };
    assert_eq!(refusal(client.apply(stale).await).code, Code::Aborted);

    assert_eq!(client.list(&[]).await.expect("lists"), before);
    assert_eq!(daemon.dataplane.live(), live);
    let current = v1::ApplyRequest {
        upserts: vec![interface("new")],
        expected_generation: Some(before.0),
        ..Default::default()
    };
    client.apply(current).await.expect("applies");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_device_does_not_keep_the_rest_from_changing() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let mut client = daemon.client().await;
    client.upsert(gateway()).await.expect("applies");
    {
        let mut record = daemon.dataplane.0.lock().unwrap();
        record.missing_devices.insert("lan".into());
        record
            .lost
            .insert(model::ObjectKey::new(model::Kind::Interface, "lan"));
    }
    client
        .upsert(vec![interface("dmz")])
        .await
        .expect("has nothing to do with lan");
    let live = daemon.dataplane.live();
    assert_eq!(live.interfaces.len(), 2, "dmz and wan");
    let not_live = client.info().await.expect("answers").not_live;
    let names: Vec<_> = not_live
        .iter()
        .filter_map(|error| error.object.as_ref())
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["Interface/lan", "Address/lan"]);
    assert_eq!(client.list(&[]).await.expect("lists").1.len(), 6);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_generation_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let mut client = daemon.client().await;
    client.upsert(gateway()).await.expect("applies");

    let mut all = client
        .watch(v1::WatchRequest::default())
        .await
        .expect("watches");
    let listing = all.message().await.unwrap().unwrap();
    assert_eq!(
        (listing.generation, listing.listing, listing.upserts.len()),
        (1, false, 5)
    );
    let only = v1::WatchRequest {
        kinds: vec!["Route".into()],
        from_generation: Some(1),
    };
    let mut routes = client.watch(only).await.expect("watches");

    client
        .upsert(vec![interface("dmz")])
        .await
        .expect("applies");
    client
        .delete(vec![key("Route", "default-v4")])
        .await
        .expect("deletes");
    let second = all.message().await.unwrap().unwrap();
    assert_eq!(
        (second.generation, names(&second.upserts)),
        (2, vec!["Interface/dmz".to_owned()])
    );
    let third = all.message().await.unwrap().unwrap();
    assert_eq!(
        (third.generation, third.deletes),
        (3, vec![key("Route", "default-v4")])
    );
    let second = routes.message().await.unwrap().unwrap();
    assert_eq!(
        (second.generation, second.upserts.len()),
        (2, 0),
        "other kinds only count on"
    );
    assert_eq!(routes.message().await.unwrap().unwrap().deletes.len(), 1);

    let resumed = v1::WatchRequest {
        kinds: Vec::new(),
        from_generation: Some(1),
    };
    let mut resumed = client.watch(resumed).await.expect("is kept");
    assert_eq!(resumed.message().await.unwrap().unwrap().generation, 2);
    assert_eq!(resumed.message().await.unwrap().unwrap().generation, 3);
    let unknown = v1::WatchRequest {
        kinds: Vec::new(),
        from_generation: Some(99),
    };
    let error = client.watch(unknown).await.expect_err("is not reached");
    assert_eq!(error.code(), Some(Code::OutOfRange));

    // A daemon that stops ends its streams.
    daemon.stop().await;
    assert_eq!(
        all.message().await.expect_err("ends").code(),
        Code::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_lags_is_told_to_resync() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("oncilla.sock");
    let options = Options {
        socket: socket.clone(),
        store: StoreLocation::Memory,
        config: Vec::new(),
    };
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(daemon::run(
        options,
        Box::new(RecordingDataplane::default()),
        std::sync::Arc::new(FixedTelemetry),
        || ready.send(()).unwrap_or(()),
        async { drop(stopped.await) },
    ));
    is_ready.await.unwrap();
    let mut client = Client::connect(&socket).await.unwrap();
    let mut slow = Client::connect(&socket).await.unwrap();
    let mut watch = slow
        .watch(v1::WatchRequest::default())
        .await
        .expect("watches");
    // Large objects fill the flow-control window, many generations the backlog.
    let mut object = interface("lan");
    for turn in 0..2000 {
        let annotations = &mut object.metadata.as_mut().unwrap().annotations;
        annotations.insert("x".into(), format!("{turn}{}", "x".repeat(4000)));
        client.upsert(vec![object.clone()]).await.expect("applies");
    }
    let mut seen = 0;
    let end = loop {
        match watch.message().await {
            Ok(Some(response)) => {
                assert!(response.generation >= seen, "in order");
                seen = response.generation;
            }
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::OutOfRange, "{end}");
    assert!(end.message().contains("start again with a full listing"));
    drop(stop);
    task.await.unwrap().unwrap();
}

/// A client that never reads holds its stream, and with it its connection, open: it is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_does_not_keep_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let mut client = daemon.client().await;
    let mut idle = daemon.client().await;
    let watch = idle.watch(v1::WatchRequest::default()).await;
    let watch = watch.expect("watches");
    // More than its flow-control window and what the daemon queues for it.
    let mut object = interface("lan");
    for turn in 0..64 {
        let annotations = &mut object.metadata.as_mut().unwrap().annotations;
        annotations.insert("x".into(), format!("{turn}{}", "x".repeat(100_000)));
        client.upsert(vec![object.clone()]).await.expect("applies");
    }
    let stopped = tokio::time::timeout(Duration::from_secs(4), daemon.stop());
    stopped.await.expect("the daemon does not wait for it");
    drop(watch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_device_does_not_keep_the_rest_down() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let mut client = daemon.client().await;
    client.upsert(gateway()).await.expect("applies");
    daemon.stop().await;

    let dataplane = RecordingDataplane::default();
    dataplane
        .0
        .lock()
        .unwrap()
        .missing_devices
        .insert("wan".into());
    let daemon = Daemon::start_with(directory.path(), dataplane, Vec::new()).await;
    let mut client = daemon.client().await;
    let info = client.info().await.expect("answers");
    let faults: Vec<String> = info.not_live.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "Interface/wan: spec.afPacket.device: device wan does not exist",
            "Address/wan: waits for Interface/wan, which is not live: device wan does not exist",
            "Route/default-v4: waits for Interface/wan, which is not live: device wan does not exist",
        ]
    );
    assert_eq!(daemon.dataplane.live().interfaces.len(), 1);
    // It is among the interfaces all the same, with the reason.
    let interfaces = client.interfaces().await.expect("answers").interfaces;
    let wan = interfaces.iter().find(|state| state.name == "wan");
    let expected = v1::InterfaceState {
        name: "wan".into(),
        r#type: "afPacket".into(),
        device: "wan".into(),
        admin_up: true,
        vrf: "default".into(),
        addresses: vec!["192.0.2.1/30".into()],
        fault: "not live: device wan does not exist".into(),
        ..v1::InterfaceState::default()
    };
    assert_eq!(wan, Some(&expected));
    assert!(interfaces.is_sorted_by_key(|state| &state.name));
    // What does not depend on it can still change; what does cannot be acknowledged as live.
    client
        .upsert(vec![interface("dmz")])
        .await
        .expect("applies");
    let refused = refusal(
        client
            .upsert(vec![route("more", "10.9.0.0/16", "192.0.2.2")])
            .await,
    );
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert_eq!(refused.errors[0].object, Some(key("Route", "more")));
    // With the device back, the next transaction brings everything up.
    daemon.dataplane.0.lock().unwrap().missing_devices.clear();
    client
        .upsert(vec![interface("dmz2")])
        .await
        .expect("applies");
    assert_eq!(daemon.dataplane.live().routes.len(), 1);
    assert!(client.info().await.expect("answers").not_live.is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_is_passed_on() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let mut client = daemon.client().await;
    let info = client.info().await.expect("answers");
    assert_eq!(
        (info.workers, info.pid, info.objects["Route"]),
        (2, std::process::id(), 0)
    );
    assert_eq!(
        client.interfaces().await.unwrap().interfaces[0]
            .counters
            .unwrap()
            .rx_packets,
        7
    );
    assert_eq!(client.routes(None).await.unwrap().routes.len(), 2500);
    let unknown = client.routes(Some("red")).await.expect_err("no such VRF");
    assert_eq!(unknown.code(), Some(Code::NotFound));
    assert_eq!(client.neighbours().await.unwrap().neighbours[0].age_ms, 5);
    assert_eq!(client.runtime().await.unwrap().workers[0].loops, 9);
    assert_eq!(client.drops().await.unwrap().drops[0].packets, 3);
    let rules = client.rule_counters(false).await.unwrap().rules;
    assert_eq!((rules.len(), rules[0].denied, rules[1].allowed), (2, 4, 6));
    let mut dump = client.flows(v1::FlowsRequest::default()).await.unwrap();
    let mut parts = Vec::new();
    while let Some(part) = dump.message().await.unwrap() {
        parts.push((part.flows.len(), part.complete));
    }
    assert_eq!(parts, [(2, false), (2, true)]);
    let nowhere = || {
        Some(v1::FlowFilter {
            interface: Some("nowhere".into()),
            ..v1::FlowFilter::default()
        })
    };
    let request = v1::FlowsRequest {
        filter: nowhere(),
        limit: 1,
    };
    let error = client.flows(request).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    let request = |filter, count| v1::FlowLogRequest {
        filter,
        count,
        interval_seconds: 0,
    };
    let error = client.flow_log(request(nowhere(), 0)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    let mut log = client.flow_log(request(None, 3)).await.unwrap();
    for number in 0..3 {
        let record = log.message().await.unwrap().unwrap();
        assert_eq!(record.timestamp_ns, number);
    }
    assert!(log.message().await.unwrap().is_none());
    let rules = client.rule_counters(true).await.unwrap().rules;
    assert_eq!((rules.len(), rules[0].denied), (1, 4));

    let five = v1::TraceRequest {
        count: 5,
        interface: None,
    };
    let mut trace = client.trace(five).await.expect("traces");
    let mut numbers = Vec::new();
    while let Some(packet) = trace.message().await.unwrap() {
        numbers.push(packet.number);
    }
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let nowhere = v1::TraceRequest {
        count: 0,
        interface: Some("nowhere".into()),
    };
    assert_eq!(
        client
            .trace(nowhere)
            .await
            .expect_err("no interface")
            .code(),
        Some(Code::NotFound)
    );
    let mut capture = client
        .capture(v1::CaptureRequest::default())
        .await
        .expect("captures");
    let mut packets = 0;
    while capture.message().await.unwrap().is_some() {
        packets += 1;
    }
    assert_eq!(packets, 3);
    let sideways = v1::CaptureRequest {
        direction: Some("up".into()),
        ..Default::default()
    };
    assert_eq!(
        client.capture(sideways).await.expect_err("none").code(),
        Some(Code::InvalidArgument)
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_request, server_reflection_response,
    };

    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path()).await;
    let channel =
        tonic::transport::Endpoint::try_from(format!("unix://{}", daemon.socket.display()))
            .unwrap()
            .connect()
            .await
            .unwrap();
    let request = HealthCheckRequest {
        service: "oncilla.v1.Control".into(),
    };
    let health = HealthClient::new(channel.clone())
        .check(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status, 1, "serving");

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let server_reflection_response::MessageResponse::ListServicesResponse(services) = answer else {
        panic!("another answer: {answer:?}");
    };
    let services: Vec<_> = services
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for expected in [
        "oncilla.v1.Control",
        "oncilla.v1.Telemetry",
        "grpc.health.v1.Health",
    ] {
        assert!(
            services.iter().any(|name| name == expected),
            "{expected} in {services:?}"
        );
    }
    drop(answers);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_taken_over_only_from_the_dead() {
    let directory = tempfile::tempdir().unwrap();
    let options = |socket: &str| Options {
        socket: directory.path().join(socket),
        store: StoreLocation::Memory,
        config: Vec::new(),
    };
    let run = |options| {
        daemon::run(
            options,
            Box::new(RecordingDataplane::default()),
            std::sync::Arc::new(FixedTelemetry),
            || (),
            async {},
        )
    };
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("stale")).unwrap());
    run(options("stale")).await.expect("takes its place");
    assert!(!directory.path().join("stale").exists(), "and cleans up");

    let _alive = std::os::unix::net::UnixListener::bind(directory.path().join("alive")).unwrap();
    let error = run(options("alive")).await.expect_err("somebody listens");
    assert!(
        matches!(error, DaemonError::Serve(ServeError::InUse(_))),
        "{error}"
    );

    std::fs::write(directory.path().join("file"), "precious").unwrap();
    let error = run(options("file")).await.expect_err("is no socket");
    assert!(
        matches!(error, DaemonError::Serve(ServeError::NoSocket(_))),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(directory.path().join("file")).unwrap(),
        "precious"
    );

    let error = Client::connect(&directory.path().join("nobody"))
        .await
        .expect_err("nobody");
    assert!(
        error.to_string().contains("start one with `oncilla run`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_files_are_applied_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("gateway.yaml");
    std::fs::write(&config, control::yaml::to_yaml(&gateway()).unwrap()).unwrap();
    let daemon = Daemon::start_with(
        directory.path(),
        RecordingDataplane::default(),
        vec![config.clone()],
    )
    .await;
    assert_eq!(daemon.dataplane.live().routes.len(), 1);
    daemon.stop().await;

    std::fs::write(
        &config,
        "apiVersion: oncilla.io/v1\nkind: Vrf\nmetadata: {name: red}\nspec: {colour: red}\n",
    )
    .unwrap();
    let options = Options {
        socket: directory.path().join("other.sock"),
        store: StoreLocation::Memory,
        config: vec![config],
    };
    let started = daemon::run(
        options,
        Box::new(RecordingDataplane::default()),
        std::sync::Arc::new(FixedTelemetry),
        || panic!("must not get ready"),
        std::future::pending(),
    );
    let error = tokio::time::timeout(Duration::from_secs(10), started)
        .await
        .unwrap()
        .expect_err("bad");
    let text = error.to_string();
    assert!(
        text.contains("gateway.yaml:4: document 1: Vrf/red: spec.colour: "),
        "{text}"
    );
}
