//! The scripts that hosts execute: POSIX shell, told over standard input, so that neither values nor
//! secrets stand on a command line that others on the host can read. Pure.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::ssh::Programs;
use crate::ssh::environment::Variables;
use crate::ssh::record::Process;

/// What begins every line that is meant for us: start-up files of shells talk too.
pub(crate) const MARK: &str = "rustspeed-ssh ";

/// In front of every script. `started PID` gives the start time of a living process, in clock ticks; with
/// the kernel's boot it names a process for good.
const PRELUDE: &str = r#"set -f
say() { printf 'rustspeed-ssh %s\n' "$*"; }
started() {
  s=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  s=${s##*")" }
  set -- $s
  case $1 in Z | X) ;; *) echo "${20}" ;; esac
}
is_same() {
  [ -n "$pid" ] && [ -n "$start" ] && [ "$boot" = "$boot_then" ] && [ "$(started "$pid")" = "$start" ]
}
remembered() { pid= start= boot_then=; [ ! -r "$dir/process" ] || read -r pid start boot_then <"$dir/process"; }
last_lines() { tail -n 15 "$1" 2>/dev/null | while IFS= read -r line; do say log "$line"; done; }
boot=$(cat /proc/sys/kernel/random/boot_id)
"#;

const LOOK: &str = r#"say directory "$dir"
say boot "$boot"
say hostname "$(cat /proc/sys/kernel/hostname)"
say cores "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
client=${SSH_CONNECTION:-}
say client "${client%% *}"
for path in "$program" "$trainer"; do
  if [ ! -f "$path" ]; then say missing "$path"; elif [ ! -x "$path" ]; then say forbidden "$path"; fi
done
if [ -x "$program" ]; then
  if words=$("$program" --version 2>&1 </dev/null); then say version "$words"
  else printf '%s\n' "$words" | while IFS= read -r line; do say broken "$line"; done; fi
fi
remembered
if is_same; then
  say process "$pid $start $boot"
  say master "$(tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | sed -n '/^--master$/{n;p;}')"
fi
"#;

/// `exec` in the background keeps the pid of the shell's own child: setsid forks only where it leads a
/// group already. The program alone gets the forwarded variables: a `PATH` or a `pid` among them must not
/// be ours.
const START: &str = r#"remembered
if is_same; then
  say held "$pid"
elif words=$( (umask 077 && mkdir -p "$dir" && : >"$dir/process") 2>&1); then
  mv -f "$log" "$log.1" 2>/dev/null
  apart=$(command -v setsid || command -v nohup)
  (set -- "$apart" "$program" "$@"; variables; exec "$@") </dev/null >"$log" 2>&1 &
  pid=$!
  start=$(started "$pid")
  if [ -n "$start" ]; then
    printf '%s\n' "$pid $start $boot" >"$dir/process"
    say process "$pid $start $boot"
  fi
  tries=0
  while [ -n "$(started "$pid")" ] && [ $tries -lt 5 ]; do sleep 0.1; tries=$((tries + 1)); done
  if [ -z "$(started "$pid")" ]; then
    wait "$pid"
    say code $?
    rm -f "$dir/process"
    last_lines "$log"
  fi
else
  say folder "$words"
fi
"#;

const STOP: &str = r#"wait_for_end() {
  tries=0
  while is_same && [ $tries -lt "$1" ]; do sleep 0.1; tries=$((tries + 1)); done
}
if [ -z "$pid" ]; then
  remembered
  # Empty: it is being started this moment, for an rsctl that may be dead.
  tries=0
  while [ -z "$pid" ] && [ -e "$dir/process" ] && [ $tries -lt 50 ]; do
    sleep 0.1
    tries=$((tries + 1))
    remembered
  done
fi
if is_same; then
  kill -TERM "$pid"
  wait_for_end "$tenths"
  if is_same; then
    kill -KILL "$pid"
    wait_for_end 50
    if is_same; then say immortal "$pid"; else say killed "$pid"; fi
  else
    say stopped "$pid"
  fi
else
  say gone "$pid"
fi
# It may be another that its folder remembers by now.
remembered
is_same || rm -f "$dir/process"
"#;

const PROBE: &str = r#"[ -n "$pid" ] || remembered
if is_same; then say running "$pid"; else say gone "$pid"; fi
last_lines "$log"
"#;

/// A worker that lives as long as the connection, with a folder that goes with it. The connection's
/// end is the end of its standard input.
const ATTEND: &str = r#"is_ours() { [ -d "$scratch" ] && [ ! -h "$scratch" ] && [ -O "$scratch" ]; }
if [ -n "$scratch" ]; then (umask 077 && mkdir "$scratch") 2>/dev/null || is_ours || {
  echo "$scratch is not to be had" >&2
  exit 73
}; fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/rustspeed-run.XXXXXXXX") || exit 73
(set -- "$program" "$@" --state-dir "$dir/state" --exit-with-stdin; variables; exec "$@")
code=$?
rm -rf "$dir" ${scratch:+"$scratch"}
exit $code
"#;

/// Safe between any two blanks of a shell's line.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The shell must have read all of it before it executes any: what it starts may read the rest.
fn whole(settings: &str, body: &str) -> String {
    format!("{{\n{PRELUDE}{settings}{body}say end of script\nexit 0\n}}\n")
}

fn set(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name}={}", quote(value));
}

/// The folder of a worker's state on its host, below the user's own. Where homes are on a shared disk it lies
/// beside what `up` itself keeps.
pub(crate) fn home_of(cluster: &str, worker: &str) -> String {
    let below = quote(&format!("/rustspeed/cluster/{cluster}/workers/{worker}"));
    format!("dir=${{XDG_STATE_HOME:-\"$HOME\"/.local/state}}{below}\n")
}

/// Changes nothing on the host.
pub(crate) fn look(cluster: &str, worker: &str, programs: &Programs) -> String {
    let mut settings = home_of(cluster, worker);
    set(&mut settings, "program", &programs.worker);
    set(&mut settings, "trainer", &programs.trainer);
    whole(&settings, LOOK)
}

/// A program that goes on when the connection ends.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) directory: &'a str,
    pub(crate) log: &'a str,
    pub(crate) program: &'a str,
    pub(crate) arguments: &'a [String],
    pub(crate) variables: &'a Variables,
}

pub(crate) fn start(start: &Start<'_>) -> String {
    let mut settings = with_variables(start.variables);
    set(&mut settings, "dir", start.directory);
    set(&mut settings, "log", start.log);
    settings += &command(start.program, start.arguments);
    whole(&settings, START)
}

/// A program that ends with the connection.
#[derive(Debug)]
pub(crate) struct Attend<'a> {
    pub(crate) program: &'a str,
    pub(crate) arguments: &'a [String],
    pub(crate) variables: &'a Variables,
    /// A folder that is made before it and goes after it. Where two such hosts are one machine, they
    /// share it.
    pub(crate) scratch: Option<&'a Path>,
}

pub(crate) fn attend(attend: &Attend<'_>) -> String {
    let mut settings = with_variables(attend.variables);
    let scratch = attend.scratch.map(|folder| folder.display().to_string());
    set(&mut settings, "scratch", &scratch.unwrap_or_default());
    settings += &command(attend.program, attend.arguments);
    whole(&settings, ATTEND)
}

fn command(program: &str, arguments: &[String]) -> String {
    let mut text = String::new();
    set(&mut text, "program", program);
    text += "set --";
    for argument in arguments {
        let _ = write!(text, " {}", quote(argument));
    }
    text.push('\n');
    text
}

/// What sets the variables, for whoever is to have them.
fn with_variables(variables: &Variables) -> String {
    let mut text = "variables() {\n:\n".to_owned();
    for (name, value) in variables.iter() {
        let _ = writeln!(text, "export {name}={}", quote(value));
    }
    text + "}\n"
}

/// A program that was started; without `process` the one that its folder remembers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) directory: &'a str,
    pub(crate) log: &'a str,
    pub(crate) process: Option<&'a Process>,
}

impl Known<'_> {
    fn settings(&self) -> String {
        let mut settings = String::new();
        set(&mut settings, "dir", self.directory);
        set(&mut settings, "log", self.log);
        let (pid, start, boot) = match self.process {
            Some(process) => (process.pid.to_string(), process.start.to_string(), &*process.boot),
            None => Default::default(),
        };
        set(&mut settings, "pid", &pid);
        set(&mut settings, "start", &start);
        set(&mut settings, "boot_then", boot);
        settings
    }
}

pub(crate) fn stop(known: Known<'_>, grace: Duration) -> String {
    let mut settings = known.settings();
    set(&mut settings, "tenths", &grace.as_millis().div_ceil(100).to_string());
    whole(&settings, STOP)
}

pub(crate) fn probe(known: Known<'_>) -> String {
    whole(&known.settings(), PROBE)
}
