//! Before a job's own command starts here: the worker allows it, its program and its folder are there.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::spec::{Command, JobSpec};
use proto::v1::StartTrainers;

use super::{Error, FoundCommand, Prepared, Runs, blocking, environment, has_rank_0, make_run_dir};
use crate::config::{Config, Device};
use crate::gpus;

/// Any of them: whether this user may run it shows at its start.
const EXECUTABLE: u32 = 0o111;

pub(super) async fn prepare(
    order: &StartTrainers,
    spec: JobSpec,
    command: Command,
    config: &Config,
) -> Result<Prepared, Error> {
    let worker = config.name.clone();
    if !config.allow_commands {
        return Err(Error::NoCommands { worker });
    }
    let job_id = proto::convert::job_id(&order.job_id).map_err(|source| Error::Spec { source })?;
    let run_dir = spec.job.output_dir.join(job_id.as_str());
    let mut env = environment::of_command(std::env::vars_os(), &spec.job.env, &config.network);
    if config.device == Device::Cuda && !spec.job.env.contains_key(gpus::CHOICE) {
        env.retain(|(name, _)| name != gpus::CHOICE);
        env.push((gpus::CHOICE.into(), gpus::choice_of(&slots(order)).into()));
    }
    let job_toml = has_rank_0(order).then(|| order.job_toml.clone());
    let checking = {
        let (command, run_dir, env) = (command.clone(), run_dir.clone(), env.clone());
        move || {
            let folder = command.working_dir.clone();
            std::fs::read_dir(&folder).map(drop).map_err(|source| Error::WorkingDir {
                path: folder.clone(),
                worker: worker.clone(),
                source,
            })?;
            let program = find(&command, &env, &worker)?;
            make_run_dir(&run_dir, job_toml.as_deref()).map_err(|source| Error::Output {
                path: run_dir,
                worker,
                source,
            })?;
            Ok(program)
        }
    };
    let program = blocking(&run_dir, &config.name, checking).await?;
    let runs = Runs::Command(FoundCommand {
        command,
        program,
        max_restarts: spec.restart.application,
        notes: spec.notes,
    });
    let threads = spec.resources.threads_per_rank;
    Ok(Prepared { spec_json: String::new(), run_dir, env, threads, runs })
}

/// Of the ranks here, in their order.
fn slots(order: &StartTrainers) -> Vec<u32> {
    let mut ranks: Vec<_> = order.ranks.iter().collect();
    ranks.sort_by_key(|rank| rank.rank);
    ranks.into_iter().flat_map(|rank| rank.slots.iter().copied()).collect()
}

/// As a shell finds it, from the command's folder and in the `PATH` that it gets.
fn find(command: &Command, env: &[(OsString, OsString)], worker: &str) -> Result<PathBuf, Error> {
    let program = command.program();
    let failed = |why: String| {
        let (program, worker) = (program.to_owned(), worker.to_owned());
        Error::Program { program, worker, why }
    };
    if program.contains('/') {
        let path = command.working_dir.join(program);
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(failed(format!("{}: {error}", path.display()))),
        };
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    let folders = std::env::split_paths(path).map(|folder| command.working_dir.join(folder));
    let mut candidates = folders.map(|folder| folder.join(program));
    candidates
        .find(|candidate| check(candidate).is_ok())
        .ok_or_else(|| failed(format!("it is in no folder of PATH, {}", path.display())))
}

fn check(path: &Path) -> io::Result<()> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if found.permissions().mode() & EXECUTABLE == 0 {
        return Err(io::Error::other("it is not executable"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(folder: &Path, program: &str) -> Command {
        let (line, working_dir) = (vec![program.to_owned()], folder.to_owned());
        Command { line, working_dir, local_rank_at: None, binding: None }
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it_or_the_error_says_where_it_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, mode: u32| {
            let path = folder.path().join(name);
            fs_err::write(&path, "#!/bin/sh\n").unwrap();
            fs_err::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        write("run.sh", 0o755);
        write("notes", 0o644);
        let env = vec![("PATH".into(), "/nowhere:.".into())];
        let found = |program: &str| find(&command(folder.path(), program), &env, "node-1");
        assert_eq!(found("./run.sh").unwrap(), folder.path().join("./run.sh"));
        assert_eq!(found("run.sh").unwrap(), folder.path().join("./run.sh"));
        assert_eq!(found("/bin/sh").unwrap(), Path::new("/bin/sh"));
        for (program, part) in [
            ("./notes", "it is not executable"),
            ("notes", "it is in no folder of PATH, /nowhere:."),
            ("./absent", "No such file"),
        ] {
            let error = found(program).unwrap_err();
            assert!(error.is_configuration());
            let text = error.to_string();
            assert!(text.contains("node-1") && text.contains(part), "{text}");
        }
    }
}
