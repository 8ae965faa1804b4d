//! Whoever reaches the port may send anything, and may say nothing: 10,000 messages of garbage and of
//! absurd sizes, and 2,000 connections that are idle, while a job trains. The job trains on and stops
//! when it is told to, and the coordinator answers meanwhile.

mod http2;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tests::cluster::{Cluster, Serving};
use tests::job::TinyJob;
use tests::wait::{report, skipped, wait_for};

/// Bytes that are no HTTP/2, a connection each.
const GARBAGE_CONNECTIONS: usize = 2_000;
/// Calls with garbage for a message, a hundred on each connection.
const GARBAGE_CALLS: usize = 8_000;
const CALLS_AT_ONCE: usize = 100;

const IDLE: usize = 2_000;
/// What this process needs besides, and other tests in it.
const OTHER_FILES: u64 = 500;

/// A new process beside two busy trainers takes a fraction of a second of it, and seconds where the
/// machine stands still.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A login shell's and systemd's default: far below [`IDLE`].
const USUAL_LIMIT: &str = "--nofile=1024:";

/// The process of the test opens as many connections as the coordinator holds.
fn may_open_many_files() -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let needed = IDLE as u64 + OTHER_FILES;
    if hard < needed {
        skipped(&format!("{needed} open files are needed, the hard limit is {hard}"));
        return false;
    }
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    true
}

fn answers(cluster: &Cluster, id: &str) {
    let asked = Instant::now();
    let status = cluster.status(id);
    let took = asked.elapsed();
    assert!(took < ANSWER_WITHIN, "rsctl status took {took:?}");
    assert_ne!(status["state"], "failed", "{status:#}");
}

fn connect(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(&cluster.master).expect("the coordinator listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends something that is no call; whatever it answers, it must hang up.
fn send_garbage(cluster: &Cluster, chance: &mut ChaCha8Rng) {
    let mut stream = connect(cluster);
    let mut bytes = vec![0; chance.random_range(1..2048)];
    chance.fill_bytes(&mut bytes);
    match chance.random_range(0..4) {
        0 => bytes.splice(0..0, *b"GET / HTTP/1.1\r\n").for_each(drop),
        // A good beginning, and then frames of any type and length.
        1 => bytes.splice(0..0, *http2::PREFACE).for_each(drop),
        2 => bytes = b"POST /rustspeed.v1.Coordinator/Submit HTTP/1.0\r\n\r\n".to_vec(),
        _ => {}
    }
    // It may hang up before it has taken everything.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.take(1 << 20).read_to_end(&mut answer) {
        let is_silent = error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!is_silent, "no end of the connection after {bytes:02x?}");
    }
}

#[test]
fn garbage_absurd_sizes_and_idle_connections_disturb_no_job() {
    if !may_open_many_files() {
        return;
    }
    let serving = Serving { through: vec!["prlimit", USUAL_LIMIT], ..Serving::default() };
    let cluster = Cluster::start_as(serving, &[2]);
    let files = open_files(&cluster);
    // However fast the machine is, it trains to the end of this.
    let endless = TinyJob { max_steps: 10_000_000, ..TinyJob::default() };
    let id = cluster.submit(&cluster.write("job.toml", &endless.toml()));
    cluster.wait_for_step(&id, 3);

    let began = Instant::now();
    let mut chance = ChaCha8Rng::seed_from_u64(5);
    for number in 0..GARBAGE_CONNECTIONS {
        send_garbage(&cluster, &mut chance);
        if number % 500 == 0 {
            answers(&cluster, &id);
        }
    }
    let mut refused = 0;
    for _ in 0..GARBAGE_CALLS / CALLS_AT_ONCE {
        refused += http2::call(connect(&cluster), CALLS_AT_ONCE, &mut chance);
    }
    assert_eq!(refused, GARBAGE_CALLS, "every call has its own answer");
    answers(&cluster, &id);
    report(&format!("10,000 messages of nonsense in {:.1?}", began.elapsed()));

    let mut idle = Vec::new();
    for number in 0..IDLE {
        let mut stream = connect(&cluster);
        if number % 2 == 0 {
            stream.write_all(http2::PREFACE).unwrap();
        }
        idle.push(stream);
    }
    for _ in 0..5 {
        answers(&cluster, &id);
    }
    let reached = cluster.status(&id)["step"].as_u64().unwrap();
    cluster.wait_for_step(&id, reached + 1);
    cluster.rsctl().call(&["cancel", &id]).expect_code(0);
    let ended = cluster.wait_for_state(&id, "cancelled");
    assert_eq!((&ended["attempt"], &ended["failure"]), (&Value::from(1), &Value::Null));
    let held = open_files(&cluster);
    drop(idle);
    report(&format!("{held} files are open with {IDLE} idle connections"));
    wait_for("the coordinator lets go of what is gone", Duration::from_secs(15), || {
        (open_files(&cluster) < files + 50).then_some(())
    });
}

fn open_files(cluster: &Cluster) -> usize {
    let pid = cluster.coordinator.as_ref().unwrap().pid();
    fs_err::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
