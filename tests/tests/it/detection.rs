//! What hangs, and what the kernel kills, is named.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::wait::wait_for;

/// Two ranks that never end of themselves, and are not started again.
fn endless() -> TinyJob {
    let more = "[restart]\ninfrastructure = 0\napplication = 0\n".to_owned();
    TinyJob { max_steps: 1_000_000, more, ..TinyJob::default() }
}

/// With a hang-timeout of 6 s, and perhaps a fault. Positions come once a second; a machine that stands
/// still for some seconds must not look like a rank that does.
fn impatient(job: &TinyJob, fault: &str) -> String {
    let env = match fault {
        "" => String::new(),
        fault => format!("env = {{ RUSTSPEED_FAULT = \"{fault}\" }}\n"),
    };
    job.toml().replace("[job]\n", &format!("[job]\nhang-timeout = \"6s\"\n{env}"))
}

fn lines(failure: &Value) -> String {
    let lines = failure["last_lines"].as_array().unwrap().iter();
    lines.map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_stopped_trainer_is_named_as_the_one_that_hangs() {
    let cluster = Cluster::start(&[1, 1]);
    let id = cluster.submit(&cluster.write("job.toml", &impatient(&endless(), "")));
    cluster.wait_for_step(&id, 5);
    let ranks = cluster.status(&id)["ranks"].clone();
    let (pid, worker) = (ranks[1]["pid"].as_i64().unwrap(), ranks[1]["worker"].clone());
    let stopped_at = Instant::now();
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    let failed = cluster.wait_for_state(&id, "failed");
    let took = stopped_at.elapsed();
    let failure = &failed["failure"];
    assert_eq!((&failure["kind"], &failure["rank"]), (&"hang".into(), &1.into()), "{failed:#}");
    assert_eq!(failure["worker"], worker);
    let message = failure["message"].as_str().unwrap();
    assert!(message.starts_with("no progress for ") && message.contains("rank 1"), "{message}");
    assert!(message.contains("operation "), "{message}");
    let lines = lines(failure);
    assert!(lines.contains("rank 1: no stack") && lines.contains("T (stopped)"), "{lines}");
    // 6 s without progress, a second until it is told, two until the stopped one is killed. Without
    // the hang-timeout of the job it would be 30 s.
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(!tests::process::is_alive(pid.try_into().unwrap()), "stopped or not, it is gone");
}

#[test]
fn a_rank_that_stalls_in_its_data_is_named_with_its_stack() {
    let cluster = Cluster::start(&[2]);
    let job = impatient(&endless(), "stall:rank=1,step=5,in=data");
    let id = cluster.submit(&cluster.write("job.toml", &job));
    let failed = cluster.wait_for_state(&id, "failed");
    let failure = &failed["failure"];
    assert_eq!((&failure["kind"], &failure["rank"]), (&"hang".into(), &1.into()), "{failed:#}");
    let message = failure["message"].as_str().unwrap();
    for part in ["rank 1 on worker `w0` is at step 5 (data)", "1 other rank waits for it"] {
        assert!(message.contains(part), "{message}");
    }
    let lines = lines(failure);
    assert!(lines.contains("rank 1: thread `training`:"), "{lines}");
    // Names, or on a machine that is too busy to read them in time the places in the program.
    assert!(lines.contains("strike_in") || lines.contains("trainer+0x"), "{lines}");
}

#[test]
fn a_rank_in_another_collective_is_told_at_once() {
    let cluster = Cluster::start(&[3]);
    let job = TinyJob { world: 3, ..endless() };
    let job = impatient(&job, "stray:rank=1,step=5");
    let id = cluster.submit(&cluster.write("job.toml", &job));
    let failed = cluster.wait_for_state(&id, "failed");
    let message = failed["failure"]["message"].as_str().unwrap();
    assert!(message.contains("all_reduce sum f64 of 8 bytes"), "both are told: {message}");
    assert!(message.contains("all_reduce sum f64 of 24 bytes"), "both are told: {message}");
}

/// A cgroup of version 1 with a limit; removed when dropped.
struct Limited(PathBuf);

impl Limited {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("rustspeed-test-{}", std::process::id());
        let folder = PathBuf::from("/sys/fs/cgroup/memory").join(name);
        std::fs::create_dir(&folder).ok()?;
        let limited = Self(folder);
        let limit = limited.0.join("memory.limit_in_bytes");
        fs_err::write(limit, bytes.to_string()).ok()?;
        Some(limited)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // It can go once its last process is reaped; a test that fails may leave that to the kernel.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_kill_for_lack_of_memory_is_told_with_the_kernels_evidence() {
    let Some(limited) = Limited::new(400 << 20) else {
        tests::wait::skipped("no cgroup of version 1 with a memory limit can be made here");
        return;
    };
    let mut cluster = Cluster::start(&[]);
    let inner = cluster.worker_command("small", 1);
    let mut worker = Command::new("sh");
    worker.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(limited.0.join("cgroup.procs"));
    worker.arg(inner.get_program()).args(inner.get_args());
    cluster.add_worker("small", worker);
    cluster.wait_until_ready(1);
    let job = TinyJob { world: 1, ..endless() }.toml();
    let job = job.replace("samples = 640\n", "samples = 60000000\n");
    let id = cluster.submit(&cluster.write("job.toml", &job));
    let failed = wait_for("the job's end", Duration::from_secs(60), || {
        let status = cluster.status(&id);
        (status["state"] == "failed").then_some(status)
    });
    let failure = &failed["failure"];
    assert_eq!(failure["kind"], "out_of_memory", "{failed:#}");
    let message = failure["message"].as_str().unwrap();
    let is_evidence = message.contains("Killed process") || message.contains("memory.oom_control");
    assert!(is_evidence && message.contains("limit is 400.0 MiB"), "{message}");
    drop(cluster);
}
