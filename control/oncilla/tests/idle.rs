//! What the daemon costs while nothing happens.

mod kit;

use std::time::Duration;
use std::{fs, thread};

use afpacket_sim::traffic::PingOptions;
use kit::{Daemon, TOPOLOGY, assert_all_answered, lab, objects, pings};

/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(10);
/// Share of one core that the daemon may take meanwhile.
const MOST: f64 = 0.02;

#[test]
fn an_idle_daemon_costs_next_to_nothing_and_answers_at_once() {
    let name = "an_idle_daemon_costs_next_to_nothing_and_answers_at_once";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    for workers in ["1", "2"] {
        let directory = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(&lab, directory.path(), &["--workers", workers]);
        daemon.apply(&objects(lab.topology()));
        lab.forget_learnt().unwrap();
        assert_all_answered(&lab, 10);

        let before = cpu_seconds(daemon.pid().as_raw());
        thread::sleep(IDLE);
        let used = cpu_seconds(daemon.pid().as_raw()) - before;
        let share = used / IDLE.as_secs_f64();
        println!(
            "{workers} workers, idle: {used:.2} s of processor time in {IDLE:?}, {:.1} %",
            share * 100.0
        );
        assert!(share < MOST, "{:.1} % of a core", share * 100.0);

        // The workers sleep now.
        let first = PingOptions {
            count: 1,
            ..PingOptions::default()
        };
        let report = pings(&lab, "a", "198.18.3.2", &first);
        assert_eq!(report.received, 1, "{report:?}");
        let ms = report.rtt.expect("was answered").max_ns as f64 / 1e6;
        println!("{workers} workers: first round trip after that: {ms:.3} ms");
        assert!(ms < 50.0, "{ms} ms: something waits for a timer");
        daemon.stop();
    }
}

/// Processor time that a process has used, of all its threads (proc_pid_stat(5)).
fn cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("is running");
    // The second field, a name in parentheses, may contain anything.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .expect("has a name")
        .1
        .split_whitespace()
        .collect();
    // Fields 14 and 15, utime and stime, in ticks of 10 ms (USER_HZ, the same on all machines).
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<f64>().expect("a number"))
        .sum();
    ticks / 100.0
}
