//! What the kernel tells of a trainer that does not answer: the state of the process, and of the
//! threads that train where in the kernel each waits. No user-space stack: only the process itself
//! could tell that.

use fs_err as fs;

/// Lines for a person.
pub(super) fn stacks(pid: u32) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = field(&status, "State:").unwrap_or("gone");
    let mut lines = vec![format!("no stack: the process does not answer; its state is {state}")];
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return lines };
    for task in tasks.flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let name = read("comm").trim_end().to_owned();
        if name != "training" && name != "save" && !name.starts_with("communicate") {
            continue;
        }
        let status = read("status");
        let state = field(&status, "State:").unwrap_or("gone");
        let waits = read("wchan");
        let waits = if waits.is_empty() || waits == "0" { "nowhere in the kernel" } else { &waits };
        lines.push(format!("thread `{name}`: {state}, waits in {waits}"));
        // For root alone, and only where the kernel was built so.
        lines.extend(read("stack").lines().take(16).map(|frame| format!("  {frame}")));
    }
    lines
}

/// By a signal, or by a debugger.
pub(super) fn is_stopped(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "State:").is_some_and(|state| state.starts_with(['T', 't']))
}

fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_its_state_and_where_its_threads_wait() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (here, is_here) = std::sync::mpsc::channel();
        let named = std::thread::Builder::new().name("training".to_owned());
        // A thread takes its name after it has begun.
        let body = move || here.send(()).map(|()| stopped.recv());
        let thread = named.spawn(body).unwrap();
        is_here.recv().unwrap();
        let lines = stacks(std::process::id());
        assert!(lines[0].starts_with("no stack: the process does not answer"), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("thread `training`: ")), "{lines:?}");
        drop(stop);
        thread.join().unwrap().unwrap().unwrap_err();
        assert_eq!(stacks(u32::MAX), ["no stack: the process does not answer; its state is gone"]);
    }
}
