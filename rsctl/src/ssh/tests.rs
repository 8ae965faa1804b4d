//! Claims about hosts over ssh. The scripts run in this machine's own shell, as on a host's.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use common::exit::ExitCode;
use common::hostfile::Hostfile;
use service::exit::Failure;

use super::*;
use crate::cluster::here::Machine;
use crate::hosts::Chosen;
use crate::ssh::call::{Reply, Shell};
use crate::ssh::environment::Variables;
use crate::ssh::look::Seen;
use crate::ssh::record::{Folder, HostRecord, Process, Record, Started};
use crate::ssh::target::Target;
use crate::ssh::words::{Refusal, essence};

const WITHIN: Duration = Duration::from_secs(30);

fn machine() -> Machine {
    Machine {
        hostname: "box.lab".to_owned(),
        has_address: |address| address.is_loopback() || address.to_string() == "10.0.0.4",
    }
}

fn targets(hostfile: &str) -> Result<Vec<Target>, Failure> {
    let hostfile = Hostfile::parse("hosts.txt", hostfile).unwrap();
    let selection = hostfile.select(&Default::default()).unwrap();
    let chosen = Chosen { hostfile, selection, flags: String::new() };
    Ok(target::of_hostfile(&chosen, &machine())?)
}

#[test]
fn a_hostfile_says_who_logs_in_where_and_what_the_worker_is() {
    let targets = targets("ada@node01 slots=4\nbox slots=2\nfe80::7 slots=1\n").unwrap();
    let told: Vec<_> = targets
        .iter()
        .map(|target| (&*target.host, &*target.worker, target.slots, target.is_here))
        .collect();
    let expected = [
        ("ada@node01", "node01", Some(4), false),
        ("box", "box", Some(2), true),
        ("fe80::7", "fe80--7", Some(1), false),
    ];
    assert_eq!(told, expected);
    assert_eq!(targets[0].place, "hosts.txt:1");
}

#[test]
fn hosts_that_ssh_or_a_shell_could_take_for_more_are_refused() {
    let refused = |hostfile: &str| {
        let failure = targets(hostfile).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadConfiguration);
        failure.render()
    };
    for host in ["-oProxyCommand=id", "ada@-x", "a;id", "$(id)", "a`id`", "a'b", "x|y", "a/b", "a#"]
    {
        let text = refused(&format!("node01 slots=1\n{host} slots=1\n"));
        let expected = format!("error: hosts.txt:2: `{host}` is no host for ssh: ");
        assert!(text.starts_with(&expected), "{text}");
    }
    let text = refused("localhost slots=1\nbox slots=1\n");
    assert!(text.contains("`box` and `localhost` are both this machine"), "{text}");
    let text = refused("a:b slots=1\na-b slots=1\n");
    assert!(text.contains("workers of one name, `a-b`"), "{text}");
}

#[test]
fn what_ssh_says_has_a_reason_and_advice() {
    let words = [
        ("ada@n1: Permission denied (publickey).", Refusal::Permission, "ssh-copy-id n1"),
        ("ssh: connect to host n1 port 22: Connection refused", Refusal::Refused, "--ssh-port"),
        ("ssh: connect to host n1 port 22: Connection timed out", Refusal::Unreachable, "firewall"),
        (
            "ssh: Could not resolve hostname n1: Name or service not known",
            Refusal::UnknownName,
            "DNS",
        ),
        ("Host key verification failed.", Refusal::HostKeyUnknown, "log in once"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            Refusal::HostKeyChanged,
            "ssh-keygen -R n1",
        ),
        ("kex_exchange_identification: Connection closed by remote host", Refusal::Closed, "log"),
        ("something new", Refusal::Other, "ssh -o BatchMode=yes n1 true"),
    ];
    for (words, refusal, advice) in words {
        assert_eq!(Refusal::read(words), refusal, "{words}");
        assert!(refusal.hint("n1").contains(advice), "{}", refusal.hint("n1"));
    }
    assert_eq!(essence("@@@@\n@  a  @\n\nb\nc\nd\ne\n"), "b\nc\nd\ne");
    assert_eq!(essence("\x1b]0;title\x07a\x1b[2Jb\r\n"), "]0;titlea[2Jb", "no terminal obeys it");
}

#[test]
fn ssh_is_called_so_that_it_never_asks_and_takes_the_users_options_first() {
    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        ssh: SshArgs,
    }
    let parse = |line: &[&str]| <Line as clap::Parser>::try_parse_from(line).unwrap().ssh.ssh();
    let shell = |ssh: Ssh| Shell::Over { ssh, host: "ada@n1".to_owned() }.command();
    let (program, arguments) = shell(parse(&["rsctl"]));
    assert_eq!(program, "ssh");
    let plain =
        "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -T -- ada@n1 exec sh";
    assert_eq!(arguments.join(" "), plain);
    let line =
        ["rsctl", "--ssh", "/opt/ssh -F my", "--ssh_port", "2222", "--launcher_args", "-v -J b"];
    let (program, arguments) = shell(parse(&line));
    assert_eq!(program, "/opt/ssh");
    assert!(arguments.join(" ").starts_with("-F my -o BatchMode=yes -p 2222 -v -J b -o Connect"));
}

#[test]
fn variables_are_allowed_by_name_and_never_shown() {
    let own = [
        "NCCL_DEBUG=INFO",
        "OMP_NUM_THREADS=2",
        "AWS_SECRET_ACCESS_KEY=k",
        "PATH=/bin",
        "RUSTSPEED_MASTER=here",
        "RUSTSPEED_LOG_FILTER=debug",
        "NCCL_ODD-NAME=1",
    ];
    let own = own.iter().map(|pair| pair.split_once('=').unwrap());
    let mut variables =
        Variables::allowed(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let text =
        "# of the team\n\nNCCL_DEBUG=WARN\nexport A = \"x y\"\nTOKEN='it=s secret'\nEMPTY=\n";
    variables.add_file(".deepspeed_env", text).unwrap();
    let pairs: Vec<_> = variables.iter().collect();
    let expected = [
        ("A", "x y"),
        ("EMPTY", ""),
        ("NCCL_DEBUG", "WARN"),
        ("OMP_NUM_THREADS", "2"),
        ("RUSTSPEED_LOG_FILTER", "debug"),
        ("TOKEN", "it=s secret"),
    ];
    assert_eq!(pairs, expected);
    assert!(!format!("{variables:?} {:?}", variables.told()).contains("secret"));
    let refused = |text: &str| {
        let failure = Failure::from(variables.clone().add_file("e", text).unwrap_err());
        assert_eq!(failure.code, ExitCode::BadConfiguration);
        failure.render()
    };
    assert!(refused("A=1\nB\n").starts_with("error: e:2: `B` is no name of a variable"));
    assert!(refused("a;id=1\n").contains("`a;id`"));
    assert!(refused("1A=1\n").contains("`1A`"));
}

fn seen(client: Option<&str>, boot: &str, cores: u32) -> Seen {
    Seen {
        directory: "/d".to_owned(),
        boot: boot.to_owned(),
        hostname: "h".to_owned(),
        cores,
        client: client.map(|client| client.parse::<IpAddr>().unwrap()),
        process: None,
        master: String::new(),
    }
}

#[test]
fn workers_are_told_the_address_of_this_machine_that_their_host_sees() {
    let targets = targets("n1 slots=2\nn2 slots=2\nlocalhost slots=1\n").unwrap();
    let check = |clients: [Option<&str>; 2], asked, listen: &str, masters: [&str; 3]| {
        let seen = [seen(clients[0], "1", 8), seen(clients[1], "2", 8), seen(None, "3", 8)];
        let seen: Vec<_> = seen.iter().map(Some).collect();
        let reach = look::reach(&targets, &seen, asked, &machine());
        assert_eq!(
            (reach.listen.as_str(), reach.masters),
            (listen, masters.map(str::to_owned).to_vec())
        );
        reach.warnings
    };
    let ours = Some("10.0.0.4");
    assert!(check([ours, ours], None, "0.0.0.0", ["10.0.0.4"; 3]).is_empty());
    let loopback = Some("127.0.0.1");
    check([loopback, loopback], None, "127.0.0.1", ["127.0.0.1"; 3]);
    let masters = ["10.0.0.4", "box.lab", "10.0.0.4"];
    let warnings = check([ours, Some("192.0.2.7")], None, "0.0.0.0", masters);
    assert!(
        warnings[0].starts_with("n2 sees this machine as 192.0.2.7, which is no"),
        "{warnings:?}"
    );
    let warnings = check([ours, None], None, "0.0.0.0", masters);
    assert!(warnings[0].starts_with("n2 does not say where"), "{warnings:?}");
    check([ours, Some("192.0.2.7")], Some("head"), "0.0.0.0", ["head"; 3]);
    check([ours, ours], Some("fe80::1"), "[::]", ["[fe80::1]"; 3]);
}

#[test]
fn one_machine_under_two_names_and_more_slots_than_cores_are_told() {
    let targets = targets("n1 slots=2\nn2 slots=2\nn3 slots=9\n").unwrap();
    let seen = [seen(None, "1", 8), seen(None, "1", 8), seen(None, "2", 8)];
    let seen: Vec<_> = seen.iter().map(Some).collect();
    assert_eq!(look::same_machines(&seen), [None, Some(0), None]);
    let told = look::crowding(&targets, &seen);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("n1 and n2 are one machine (h)"), "{told:?}");
    assert!(told[1].starts_with("n3: 9 slots on 8 cores"), "{told:?}");
}

#[test]
fn a_record_is_its_owners_alone_and_refuses_what_it_does_not_know() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::of("night", Some(dir.path())).unwrap();
    assert_eq!(folder.read().unwrap(), None);
    let mut record = Record::new(Ssh::new(vec!["ssh".to_owned()]), "127.0.0.1:1".to_owned());
    let process = Process::read("7 123 boot");
    let started = Started {
        program: "/w".to_owned(),
        directory: "/d".to_owned(),
        log: "/l".to_owned(),
        process,
    };
    let target = targets("n1 slots=2\n").unwrap().remove(0);
    record.hosts.push(HostRecord::new(&target, started));
    folder.write(&record).unwrap();
    assert_eq!(folder.read().unwrap().as_ref(), Some(&record));
    let path = dir.path().join("cluster.json");
    assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let failure = super::record::check_owner(&path, nix::unistd::geteuid().as_raw() + 1);
    assert_eq!(failure.unwrap_err().code, ExitCode::BadConfiguration, "it names programs");
    for (text, part) in [("{", "cannot be read"), ("{\"version\": 9}", "of version 9")] {
        fs_err::write(&path, text).unwrap();
        let failure = folder.read().unwrap_err();
        assert!(failure.render().contains(part), "{}", failure.render());
    }
    record.hosts.clear();
    folder.write(&record).unwrap();
    assert!(!path.exists(), "nothing is up");
    for name in ["", "-x", ".", "a/b", "a b"] {
        assert_eq!(Folder::of(name, None).unwrap_err().code, ExitCode::Usage, "{name}");
    }
}

/// Runs a script here; gives what it said.
async fn here(script: &str) -> Reply {
    call::call(&Shell::Here, script, WITHIN).await.unwrap()
}

/// A shell under a name that needs quotes.
fn program(dir: &Path) -> String {
    let path = dir.join("pro gram's");
    if !path.exists() {
        fs_err::os::unix::fs::symlink("/bin/sh", &path).unwrap();
    }
    path.display().to_string()
}

fn started(dir: &Path, process: Option<Process>) -> Started {
    Started {
        program: program(dir),
        directory: dir.join("state").display().to_string(),
        log: dir.join("state/worker.log").display().to_string(),
        process,
    }
}

fn start_script(started: &Started, line: &str, variables: &Variables) -> String {
    let arguments = ["-c", line, "argument"].map(str::to_owned);
    script::start(&script::Start {
        directory: &started.directory,
        log: &started.log,
        program: &started.program,
        arguments: &arguments,
        variables,
    })
}

/// Waits until what was started has said this, and nothing else.
async fn logged(dir: &Path, expected: &str) {
    let path = dir.join("state/worker.log");
    let read = || fs_err::read_to_string(&path).unwrap_or_default();
    let waiting = async {
        while read() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(WITHIN, waiting).await.is_ok();
    assert!(in_time, "{:?} is not {expected:?}", read());
}

#[tokio::test]
async fn what_was_started_goes_on_and_is_stopped_by_its_pid_alone() {
    let dir = tempfile::tempdir().unwrap();
    let started = started(dir.path(), None);
    let mut variables = Variables::default();
    variables.add_file("e", "SECRET=it's; $(id) `id` \"\\\n").unwrap();
    let line = "echo \"$SECRET\"; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let reply = here(&start_script(&started, line, &variables)).await;
    let process = Process::read(reply.get("process").unwrap()).unwrap();
    // As it is, whatever it holds.
    logged(dir.path(), "it's; $(id) `id` \"\\\n").await;
    let command = fs_err::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap();
    assert!(!command.contains("it's"), "{command}");

    // Another process of that number is nobody's to stop.
    let other = Process { start: process.start + 1, ..process.clone() };
    let other_boot = Process { boot: "another".to_owned(), ..process.clone() };
    for other in [other, other_boot] {
        let known = Started { process: Some(other), ..started.clone() };
        assert!(here(&script::stop(known.known(), WITHIN)).await.get("gone").is_some());
    }
    let known = Started { process: Some(process.clone()), ..started.clone() };
    assert!(here(&script::probe(known.known())).await.get("running").is_some());
    let reply = here(&script::stop(known.known(), WITHIN)).await;
    assert_eq!(reply.get("stopped"), Some(&*process.pid.to_string()));
    let reply = here(&script::probe(known.known())).await;
    assert!(reply.get("gone").is_some());
    assert_eq!(reply.text("log"), "it's; $(id) `id` \"\\");
}

/// Names that the scripts themselves use, and a `PATH` on which they would find nothing.
#[tokio::test]
async fn variables_are_the_programs_alone() {
    let dir = tempfile::tempdir().unwrap();
    let started = started(dir.path(), None);
    let mut variables = Variables::default();
    let file = "PATH=/nowhere\nboot=a\npid=1\nstart=b\ndir=/c\nlog=/d\nprogram=/e\napart=/f\n";
    variables.add_file("e", file).unwrap();
    let line = "echo $PATH $boot $pid $start $dir $log $program $apart; exec /bin/sleep 60";
    let reply = here(&start_script(&started, line, &variables)).await;
    let process = Process::read(reply.get("process").unwrap()).unwrap();
    logged(dir.path(), "/nowhere a 1 b /c /d /e /f\n").await;
    let known = Started { process: Some(process), ..started.clone() };
    assert!(here(&script::stop(known.known(), WITHIN)).await.get("stopped").is_some());
    assert!(!dir.path().join("state/process").exists());

    let arguments = ["-c".to_owned(), line.replace("exec /bin/sleep 60", "exit 3")];
    let attend = script::attend(&script::Attend {
        program: &started.program,
        arguments: &arguments,
        variables: &variables,
        scratch: None,
    });
    let output = std::process::Command::new("sh").arg("-c").arg(attend).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/nowhere a 1 b /c /d /e /f\n");
    assert_eq!(output.status.code(), Some(3));
}

/// Two machines may bring up clusters of one name on the same host.
#[tokio::test]
async fn what_runs_already_is_neither_started_over_nor_forgotten_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let started = started(dir.path(), None);
    let line = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let start = start_script(&started, line, &Variables::default());
    let reply = here(&start).await;
    let process = Process::read(reply.get("process").unwrap()).unwrap();
    let pid = process.pid.to_string();
    let again = here(&start).await;
    assert_eq!((again.get("held"), again.get("process")), (Some(&*pid), None));
    // Whoever remembers another process finds that gone, and leaves the memory of this one.
    let other = Process { start: process.start + 1, ..process };
    let other = Started { process: Some(other), ..started.clone() };
    assert!(here(&script::stop(other.known(), WITHIN)).await.get("gone").is_some());
    assert_eq!(here(&script::probe(started.known())).await.get("running"), Some(&*pid));
    assert!(here(&script::stop(started.known(), WITHIN)).await.get("stopped").is_some());
}

/// An `up` was killed by SIGKILL while its hosts were starting, and `down` is called at once.
#[tokio::test]
async fn what_is_being_started_is_waited_for_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let started = started(dir.path(), None);
    fs_err::create_dir_all(&started.directory).unwrap();
    fs_err::write(dir.path().join("state/process"), "").unwrap();
    let start = start_script(&started, "exec /bin/sleep 60", &Variables::default());
    let stop = script::stop(started.known(), WITHIN);
    let (_, stopped) = tokio::join!(here(&start), here(&stop));
    assert!(stopped.get("stopped").is_some(), "{stopped:?}");
    assert!(!dir.path().join("state/process").exists());
}

#[tokio::test]
async fn who_does_not_heed_sigterm_is_killed_and_remembered_without_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let started = started(dir.path(), None);
    let line = "trap '' TERM; echo deaf; while :; do sleep 0.05; done";
    here(&start_script(&started, line, &Variables::default())).await;
    logged(dir.path(), "deaf\n").await;
    // The record did not come to know of it: the folder on the host does.
    let reply = here(&script::stop(started.known(), Duration::from_millis(300))).await;
    assert!(reply.get("killed").is_some(), "{reply:?}");
    assert!(here(&script::probe(started.known())).await.get("gone").is_some());
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_told_with_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let started = started(dir.path(), None);
    let start = start_script(&started, "echo one; echo two >&2; exit 78", &Variables::default());
    let mut reply = here(&start).await;
    // It has half a second to end, and this machine may have other work: one of a few.
    for _ in 0..4 {
        if reply.get("code").is_none() {
            reply = here(&start).await;
        }
    }
    assert_eq!(reply.get("code"), Some("78"));
    assert_eq!(reply.text("log"), "one\ntwo");
}

#[tokio::test]
async fn a_look_tells_what_is_missing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let programs = |worker: &str, trainer: &str| Programs {
        worker: worker.to_owned(),
        trainer: trainer.to_owned(),
    };
    let look = |programs: Programs| async move {
        look::look(&Shell::Here, "no-such-cluster", "w", &programs).await.map_err(|e| e.to_string())
    };
    let missing = look(programs("/no/worker", "/bin/sh")).await.unwrap_err();
    assert_eq!(missing, "`/no/worker` is not there");
    let plain = dir.path().join("plain");
    fs_err::write(&plain, "").unwrap();
    let plain = plain.display().to_string();
    let forbidden = look(programs("/bin/true", &plain)).await.unwrap_err();
    assert_eq!(forbidden, format!("`{plain}` is there, and may not be executed"));
    let broken = look(programs("/bin/false", "/bin/sh")).await.unwrap_err();
    assert!(broken.starts_with("`/bin/false --version` fails"), "{broken}");
    let seen = look(programs("/bin/true", "/bin/sh")).await.unwrap();
    assert!(seen.cores > 0 && !seen.boot.is_empty() && seen.process.is_none(), "{seen:?}");
    assert!(!Path::new(&seen.directory).exists(), "{seen:?}");
}

#[test]
fn start_up_files_may_talk() {
    let reply =
        Reply::read("welcome!\nrustspeed-ssh boot 1\nrustspeed-ssh log a  b\nrustspeed-ssh log \n");
    assert_eq!((reply.get("boot"), reply.get("welcome!")), (Some("1"), None));
    assert_eq!(reply.text("log"), "a  b\n");
}
